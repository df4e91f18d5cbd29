package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func of(root string) build {
	return build{root: root, service: "simulator", archs: []string{"amd64", "arm64"}, version: "v0.0.1", revision: "0123456789abcdef", time: time.Unix(1700000000, 0).UTC()}
}

// A build in another place gives the same digest; what was built is a whole
// image of static programs, with SBOMs, and runs without rights.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := buildLayout(t.Context(), of("../.."), filepath.Join(dir, "simulator"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	for _, module := range []string{"pkg", "proto", "services/simulator"} {
		if err := os.CopyFS(filepath.Join(elsewhere, module), os.DirFS("../../"+module)); err != nil {
			t.Fatal(err)
		}
	}
	second, err := buildLayout(t.Context(), of(elsewhere), filepath.Join(dir, "again"))
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Errorf("the same sources gave %s, and %s in another place", first, second)
	}
	other := of("../..")
	other.revision = "another"
	if third, err := buildLayout(t.Context(), other, filepath.Join(dir, "other")); err != nil || third == first {
		t.Errorf("another revision gave the same digest %s, %v", third, err)
	}

	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	t.Cleanup(srv.Close)
	prefix := strings.TrimPrefix(srv.URL, "http://") + "/reelway"
	pushed, err := pushLayout(t.Context(), filepath.Join(dir, "simulator"), prefix+"/simulator")
	if err != nil {
		t.Fatal(err)
	}
	if want := prefix + "/simulator@" + first.String(); pushed != want {
		t.Errorf("pushed %s, not %s", pushed, want)
	}
	tag, err := name.NewTag(prefix + "/simulator:v0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		root := extract(t, img)
		arch := d.Platform.Architecture
		checkStatic(t, filepath.Join(root, "simulator"), machines[arch])
		delete(machines, arch)
		checkBOM(t, tag.Context().Digest(d.Digest.String()))
		if arch == "amd64" && os.Getuid() == 0 {
			checkRuns(t, root, img)
		}
	}
	if len(machines) > 0 {
		t.Errorf("no image for %v", machines)
	}
}

func extract(t *testing.T, img v1.Image) string {
	t.Helper()
	root := t.TempDir()
	// The user of the image has to be able to enter.
	for dir := root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := mutate.Extract(img)
	defer func() { _ = r.Close() }()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s is of user %d and group %d at %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		path := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := io.ReadAll(tr)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = os.WriteFile(path, data, os.FileMode(h.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func checkStatic(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if f.Machine != machine {
		t.Errorf("built for %v, not %v", f.Machine, machine)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the program is not static")
	}
}

func checkBOM(t *testing.T, image name.Digest) {
	t.Helper()
	refs, err := remote.Referrers(image)
	if err != nil {
		t.Fatal(err)
	}
	m, err := refs.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%v refer to the image, %v", m, err)
	}
	bom, err := remote.Image(image.Context().Digest(m.Manifests[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := bom.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	var doc spdxDocument
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(doc.Packages, func(p spdxPackage) bool { return p.Name == name && p.Version != "" })
	}
	for _, name := range []string{"stdlib", "reelway.dev/pkg", "go.opentelemetry.io/otel"} {
		if !has(name) {
			t.Errorf("the SBOM lacks %s", name)
		}
	}
	if !strings.HasSuffix(doc.Namespace, image.DigestStr()) {
		t.Errorf("the SBOM is of %s", doc.Namespace)
	}
}

// checkRuns runs the image's program as its user in its own root, in which that
// user can write nothing but below /tmp.
func checkRuns(t *testing.T, root string, img v1.Image) {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Config.User != "65532:65532" || cfg.Config.Labels["org.opencontainers.image.revision"] == "" {
		t.Errorf("%+v", cfg.Config)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ops := l.Addr().String()
	_ = l.Close()
	var out bytes.Buffer
	cmd := exec.Command(cfg.Config.Entrypoint[0])
	cmd.Env = append(slices.Clone(cfg.Config.Env), "REELWAY_OPS_ADDR="+ops, "REELWAY_SIMULATOR_ADDR=127.0.0.1:0")
	cmd.Dir, cmd.Stderr = "/", &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nonroot, Gid: nonroot}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := false
	for deadline := time.Now().Add(time.Minute); !ready && time.Now().Before(deadline); {
		if resp, err := http.Get("http://" + ops + "/readyz"); err == nil {
			ready = resp.StatusCode == http.StatusOK
			_ = resp.Body.Close()
		} else {
			<-time.After(20 * time.Millisecond)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil || !ready {
		t.Errorf("ready: %v, %v\n%s", ready, err, out.String())
	}
}

// The files that every image has are whole: certificates, time zones and the
// user.
func TestRoot(t *testing.T) {
	t.Parallel()
	files, err := rootfs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]file{}
	for _, f := range files {
		byName[f.name] = f
	}
	if n := bytes.Count(byName[certsPath].data, []byte("BEGIN CERTIFICATE")); n < 100 {
		t.Errorf("%d certificates", n)
	}
	if !bytes.HasPrefix(byName[zonesPath].data, []byte("PK")) {
		t.Error("the time zones are no archive")
	}
	if !bytes.Contains(byName["etc/passwd"].data, fmt.Appendf(nil, "nonroot:x:%d:", nonroot)) {
		t.Error("the user is not there")
	}
}
