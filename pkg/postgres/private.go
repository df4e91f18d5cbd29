package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Private is a PostgreSQL server of our own, on a Unix socket in its data
// directory: no port, no password, nobody else's.
type Private struct {
	URL string // for Open
	dir string
	bin string
	who *syscall.Credential
}

// StartPrivate makes a cluster in dir if there is none, and starts it from the
// newest installed binaries. PostgreSQL refuses to run as root, so a root
// process runs it as the system's "postgres" user, who then owns dir. A server
// left behind by a killed process is stopped first. fast turns fsync off: for
// tests alone. settings, as name=value, are the server's own and go before ours.
func StartPrivate(ctx context.Context, dir string, fast bool, settings ...string) (*Private, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	p := &Private{dir: dir, bin: bin}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, fmt.Errorf("PostgreSQL cannot run as root and there is no user postgres: %w", err)
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		p.who = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if dir, err = reachable(dir); err != nil {
			return nil, err
		}
		p.dir = dir
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return nil, fmt.Errorf("hand data directory to postgres: %w", err)
		}
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		_ = os.RemoveAll(data) // a half-made cluster has no version file
		args := []string{"-D", data, "-U", "reelway", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"}
		if fast {
			args = append(args, "--no-sync")
		}
		if err := p.run(ctx, "initdb", args...); err != nil {
			return nil, err
		}
	} else if err := p.run(ctx, "pg_ctl", "-D", data, "status"); err == nil {
		if err := p.Stop(ctx); err != nil {
			return nil, err
		}
	}
	sock := socketDir(dir)
	if err := os.Mkdir(sock, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	if p.who != nil {
		if err := os.Chown(sock, int(p.who.Uid), int(p.who.Gid)); err != nil {
			return nil, fmt.Errorf("hand socket directory to postgres: %w", err)
		}
	}
	opts := "-c listen_addresses='' -c unix_socket_directories='" + sock + "' -c max_connections=200 -c timezone=UTC" +
		" -c shared_buffers=512MB -c max_wal_size=4GB -c checkpoint_timeout=15min -c wal_compression=on"
	if fast {
		opts += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		opts += " -c " + name + "='" + value + "'"
		if name == "port" {
			sock += "&port=" + value
		}
	}
	if err := p.run(ctx, "pg_ctl", "-D", data, "-l", filepath.Join(dir, "postgres.log"), "-o", opts, "-w", "-t", "60", "start"); err != nil {
		return nil, err
	}
	p.URL = "postgres://reelway@/reelway?host=" + sock
	conn, err := pgx.Connect(ctx, "postgres://reelway@/postgres?host="+sock)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reach private postgres: %w", err), p.Stop(ctx))
	}
	defer func() { _ = conn.Close(ctx) }()
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = 'reelway')").Scan(&exists); err != nil {
		return nil, fmt.Errorf("read databases: %w", err)
	}
	if !exists {
		if _, err := conn.Exec(ctx, "create database reelway"); err != nil {
			return nil, fmt.Errorf("create database: %w", err)
		}
	}
	return p, nil
}

// Stop shuts the server down in its fast mode: clients are cut, nothing is lost.
func (p *Private) Stop(ctx context.Context) error {
	err := p.run(ctx, "pg_ctl", "-D", filepath.Join(p.dir, "data"), "-m", "fast", "-w", "stop")
	if _, host, ok := strings.Cut(p.URL, "host="); ok {
		sock, _, _ := strings.Cut(host, "&")
		_ = os.RemoveAll(sock)
	}
	return err
}

func (p *Private) run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	// Its own session: a Ctrl-C for us must not stop the server before we drain.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: p.who}
	log, err := os.CreateTemp("", "reelway-pg-*.log")
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer func() { _ = log.Close(); _ = os.Remove(log.Name()) }()
	// A file, not a pipe: the server inherits it and would keep a pipe open.
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// reachable is dir, or, where a parent keeps the postgres user out (root's home
// does), a directory of this dir's own under /var/lib/reelway.
func reachable(dir string) (string, error) {
	for d := filepath.Dir(dir); d != "/"; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			return "", fmt.Errorf("stat %s: %w", d, err)
		}
		if st.Mode().Perm()&0o001 == 0 {
			other := elsewhere(dir)
			if err := os.MkdirAll(other, 0o711); err != nil {
				return "", fmt.Errorf("the user postgres cannot enter %s: choose another --data-dir or run as an ordinary user: %w", d, err)
			}
			return other, nil
		}
	}
	return dir, nil
}

// short names a directory in a few characters.
func short(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:8])
}

// Dir is where the server keeps its data.
func (p *Private) Dir() string { return p.dir }

// Watch returns an error when the server ends while ctx is not done.
func (p *Private) Watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := p.alive(); err != nil {
				return fmt.Errorf("private PostgreSQL ended; its log is %s: %w", filepath.Join(p.dir, "postgres.log"), err)
			}
		}
	}
}

func (p *Private) alive() error {
	data, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, 0)
}

var digits = regexp.MustCompile(`\d+`)

// major is the version in a path of PostgreSQL's binaries, 0 without one.
func major(path string) int {
	n, err := strconv.Atoi(digits.FindString(path))
	if err != nil {
		return 0
	}
	return n
}

func binaries() (string, error) {
	if dir := os.Getenv("REELWAY_POSTGRES_BIN"); dir != "" {
		return dir, nil
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/pg_ctl", "/usr/pgsql-*/bin/pg_ctl", "/opt/homebrew/opt/postgresql@*/bin/pg_ctl", "/usr/local/opt/postgresql@*/bin/pg_ctl"} {
		m, _ := filepath.Glob(pattern)
		found = append(found, m...)
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return major(a) - major(b) })), nil
	}
	path, err := exec.LookPath("pg_ctl")
	if err != nil {
		return "", errors.New("PostgreSQL is not installed: run 'make setup', set REELWAY_DATABASE_URL to a server you have, or REELWAY_POSTGRES_BIN to its binaries")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("resolve pg_ctl: %w", err)
	}
	return filepath.Dir(path), nil
}
