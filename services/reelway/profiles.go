package reelway

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// profile is one Reelway and how to be let in.
type profile struct {
	URL     string `yaml:"url"`
	Key     string `yaml:"key,omitempty"`
	KeyFile string `yaml:"key_file,omitempty"`
}

// secret is the profile's key; empty when it has none.
func (p profile) secret() (string, error) {
	if p.Key != "" || p.KeyFile == "" {
		return p.Key, nil
	}
	data, err := os.ReadFile(p.KeyFile)
	if err != nil {
		return "", fmt.Errorf("the profile's key_file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// profiles are what a person keeps about servers.
type profiles struct {
	Current  string             `yaml:"current,omitempty"`
	Profiles map[string]profile `yaml:"profiles,omitempty"`
}

// profilesPath is reelway/config.yaml where this system keeps a user's settings.
func profilesPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of settings: %w", err)
	}
	return filepath.Join(dir, "reelway", "config.yaml"), nil
}

// loadProfiles reads the file; none is no profile. One that holds a key and is
// open to others is refused.
func loadProfiles() (profiles, error) {
	var p profiles
	path, err := profilesPath()
	if err != nil {
		return p, nil //nolint:nilerr // without a home there are no profiles; the environment serves
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read profiles: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return p, fmt.Errorf("read profiles: %w", err)
	}
	for name, x := range p.Profiles {
		if x.Key != "" && st.Mode().Perm()&0o077 != 0 {
			return p, fmt.Errorf("%s holds the key of %q and is open to other users; run: chmod 600 %s", path, name, path)
		}
	}
	return p, nil
}

// save writes the file whole or not at all.
func (p profiles) save() error {
	path, err := profilesPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("save profiles: %w", err)
	}
	data, err := yaml.Marshal(p)
	if err != nil {
		return fmt.Errorf("save profiles: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*") // for this user alone
	if err != nil {
		return fmt.Errorf("save profiles: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("save profiles: %w", err)
	}
	return nil
}

type profilesCmd struct {
	List profilesListCmd `cmd:"" help:"List the profiles; * is the current one."`
	Set  profilesSetCmd  `cmd:"" help:"Make or change a profile."`
	Use  profilesUseCmd  `cmd:"" help:"Make a profile the current one."`
}

type profilesListCmd struct{}

// Help implements kong.HelpProvider.
func (*profilesListCmd) Help() string {
	return `Keys are not shown.

Example:

    reelway profiles list`
}

// Run lists the profiles by name.
func (*profilesListCmd) Run(io *console) error {
	p, err := loadProfiles()
	if err != nil {
		return err
	}
	rows := [][]string{{" ", "PROFILE", "URL", "KEY"}}
	for _, name := range slices.Sorted(maps.Keys(p.Profiles)) {
		x, mark, key := p.Profiles[name], " ", "-"
		if name == p.Current {
			mark = "*"
		}
		switch {
		case x.Key != "":
			key = "kept here"
		case x.KeyFile != "":
			key = "in " + x.KeyFile
		}
		rows = append(rows, []string{mark, name, x.URL, key})
	}
	return printTable(io.out, rows)
}

type profilesSetCmd struct {
	Name    string `arg:"" help:"The profile's name."`
	URL     string `name:"url" help:"The HTTP address of the Reelway." placeholder:"URL"`
	KeyFile string `xor:"key" help:"A file that holds the key." type:"path" placeholder:"FILE"`
	Key     string `xor:"key" help:"The key itself; - reads it from stdin, where no other user sees it." placeholder:"KEY"`
}

// Help implements kong.HelpProvider.
func (*profilesSetCmd) Help() string {
	return `What is not given stays as it was. The first profile is the current one.

Examples:

    reelway profiles set local --url http://127.0.0.1:8080 --key - <key.txt
    reelway profiles set acme --url https://video.acme.example --key-file ~/.secrets/acme.key`
}

var profileName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// Run makes or changes the profile.
func (s *profilesSetCmd) Run(con *console) error {
	p, err := loadProfiles()
	if err != nil {
		return err
	}
	if !profileName.MatchString(s.Name) {
		return &exitError{exitUsage, errors.New("a profile's name has 1 to 64 letters, digits, dots, - and _")}
	}
	x := p.Profiles[s.Name]
	x.URL = cmp.Or(s.URL, x.URL)
	if err := checkURL(x.URL); err != nil {
		return &exitError{exitUsage, fmt.Errorf("--url: %w", err)}
	}
	if s.Key == "-" {
		data, err := io.ReadAll(io.LimitReader(con.in, 4096))
		if err != nil {
			return fmt.Errorf("read key: %w", err)
		}
		if s.Key = strings.TrimSpace(string(data)); s.Key == "" {
			return &exitError{exitUsage, errors.New("--key -: there was nothing on stdin")}
		}
	}
	if s.Key != "" || s.KeyFile != "" {
		x.Key, x.KeyFile = s.Key, s.KeyFile
	}
	if p.Profiles == nil {
		p.Profiles = map[string]profile{}
	}
	p.Profiles[s.Name], p.Current = x, cmp.Or(p.Current, s.Name)
	return p.save()
}

type profilesUseCmd struct {
	Name string `arg:"" help:"The profile's name."`
}

// Help implements kong.HelpProvider.
func (*profilesUseCmd) Help() string {
	return `REELWAY_PROFILE, or --profile with a command, is before it.

Example:

    reelway profiles use acme`
}

// Run makes the profile the current one.
func (u *profilesUseCmd) Run() error {
	p, err := loadProfiles()
	if err != nil {
		return err
	}
	if _, ok := p.Profiles[u.Name]; !ok {
		return &exitError{exitUsage, fmt.Errorf("there is no profile %q; reelway profiles list shows them", u.Name)}
	}
	p.Current = u.Name
	return p.save()
}
