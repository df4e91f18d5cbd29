package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// nonroot is the user that services run as, by number: Kubernetes cannot tell
// from a name that it is not root.
const nonroot = 65532

const (
	certsPath = "etc/ssl/certs/ca-certificates.crt"
	zonesPath = "usr/share/zoneinfo.zip"
)

type file struct {
	name string
	data []byte
	mode int64
}

// rootfs is all that a static program needs besides itself. Nothing in it comes
// from the machine that builds: certificates are a pinned module's, time zones
// the toolchain's.
func rootfs(ctx context.Context) ([]file, error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find the toolchain: %w", err)
	}
	zones, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(goroot)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		return nil, fmt.Errorf("read time zones: %w", err)
	}
	var certs bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue // trusted for some certificates alone, which a PEM file cannot say
		}
		if err := pem.Encode(&certs, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("write certificates: %w", err)
		}
	}
	return []file{
		{name: "etc/passwd", data: fmt.Appendf(nil, "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%d:%d:nonroot:/tmp:/sbin/nologin\n", nonroot, nonroot), mode: 0o644},
		{name: "etc/group", data: fmt.Appendf(nil, "root:x:0:\nnonroot:x:%d:\n", nonroot), mode: 0o644},
		{name: certsPath, data: certs.Bytes(), mode: 0o644},
		{name: zonesPath, data: zones, mode: 0o644},
		{name: "tmp/", mode: 0o1777},
	}, nil
}

// archive is a tar of files with the folders above them, everything root's and
// of one time.
func archive(files []file, at time.Time) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{}
	add := func(f file) error {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(f.data)
		return err
	}
	for _, f := range files {
		parts := strings.Split(f.name, "/")
		for i := 1; i < len(parts); i++ {
			dir := strings.Join(parts[:i], "/") + "/"
			if made[dir] || dir == f.name {
				continue
			}
			made[dir] = true
			if err := add(file{name: dir, mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if err := add(f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
