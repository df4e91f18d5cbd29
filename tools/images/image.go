package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// build is what one service's images are made of.
type build struct {
	root, service     string
	archs             []string
	version, revision string
	time              time.Time
}

const (
	spdxType = "application/spdx+json"
	// refName is where an OCI layout keeps the tag of an entry.
	refName = "org.opencontainers.image.ref.name"
)

// buildLayout writes the images of b into a fresh layout at dir and returns the
// digest of their index.
func buildLayout(ctx context.Context, b build, dir string) (v1.Hash, error) {
	var none v1.Hash
	tmp, err := os.MkdirTemp("", "reelway-image-")
	if err != nil {
		return none, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var boms []v1.Image
	for _, arch := range b.archs {
		bin := filepath.Join(tmp, arch)
		if err := compile(ctx, b, arch, bin); err != nil {
			return none, err
		}
		img, err := b.image(ctx, arch, bin)
		if err != nil {
			return none, err
		}
		desc, err := partial.Descriptor(img)
		if err != nil {
			return none, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		bom, err := b.bom(bin, *desc)
		if err != nil {
			return none, err
		}
		boms = append(boms, bom)
	}
	annotated, ok := mutate.Annotations(index, b.labels()).(v1.ImageIndex)
	if !ok {
		return none, errors.New("an annotated index is none")
	}
	if err := os.RemoveAll(dir); err != nil {
		return none, err
	}
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return none, err
	}
	if err := l.AppendIndex(annotated, layout.WithAnnotations(map[string]string{refName: b.version})); err != nil {
		return none, err
	}
	for _, bom := range boms {
		if err := l.AppendImage(bom); err != nil {
			return none, err
		}
	}
	return annotated.Digest()
}

func (b build) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "reelway-" + b.service,
		"org.opencontainers.image.version":  b.version,
		"org.opencontainers.image.revision": b.revision,
		"org.opencontainers.image.created":  b.time.Format(time.RFC3339),
	}
}

// image is the root files and the binary, to be run by an ordinary user.
func (b build) image(ctx context.Context, arch, bin string) (v1.Image, error) {
	root, err := rootfs(ctx)
	if err != nil {
		return nil, err
	}
	exe, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, files := range [][]file{root, {{name: b.service, data: exe, mode: 0o755}}} {
		layer, err := b.layer(files)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: b.time}, CreatedBy: "reelway tools/images"}})
		if err != nil {
			return nil, err
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created = "linux", arch, v1.Time{Time: b.time}
	cfg.Config = v1.Config{
		Entrypoint: []string{"/" + b.service}, User: fmt.Sprintf("%d:%d", nonroot, nonroot), WorkingDir: "/",
		Env:    []string{"PATH=/", "HOME=/tmp", "SSL_CERT_FILE=/" + certsPath, "ZONEINFO=/" + zonesPath},
		Labels: b.labels(),
	}
	return mutate.ConfigFile(img, cfg)
}

func (b build) layer(files []file) (v1.Layer, error) {
	data, err := archive(files, b.time)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithMediaType(types.OCILayer))
}

// bom is the SBOM of an image as an artifact that refers to it.
func (b build) bom(bin string, subject v1.Descriptor) (v1.Image, error) {
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		return nil, fmt.Errorf("read build info: %w", err)
	}
	doc, err := spdx(b, subject.Digest.String(), info)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), spdxType)
	img, err = mutate.AppendLayers(img, static.NewLayer(doc, spdxType))
	if err != nil {
		return nil, err
	}
	subject.Platform, subject.Annotations, subject.Data = nil, nil, nil
	refers, ok := mutate.Subject(img, subject).(v1.Image)
	if !ok {
		return nil, errors.New("an image with a subject is none")
	}
	return refers, nil
}

// pushLayout pushes a layout's index under its tag, and what refers to its
// images, to a repository, with the credentials of the user's container tools.
// It returns the reference by digest.
func pushLayout(ctx context.Context, dir, repository string) (string, error) {
	opts := []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithContext(ctx)}
	repo, err := name.NewRepository(repository)
	if err != nil {
		return "", err
	}
	l, err := layout.FromPath(dir)
	if err != nil {
		return "", err
	}
	root, err := l.ImageIndex()
	if err != nil {
		return "", err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return "", err
	}
	pushed := ""
	for _, d := range manifest.Manifests {
		if !d.MediaType.IsIndex() {
			img, err := root.Image(d.Digest)
			if err != nil {
				return "", err
			}
			if err := remote.Write(repo.Digest(d.Digest.String()), img, opts...); err != nil {
				return "", err
			}
			continue
		}
		index, err := root.ImageIndex(d.Digest)
		if err != nil {
			return "", err
		}
		if err := remote.WriteIndex(repo.Tag(strings.ReplaceAll(d.Annotations[refName], "+", "-")), index, opts...); err != nil {
			return "", err
		}
		pushed = repo.Digest(d.Digest.String()).String()
	}
	if pushed == "" {
		return "", fmt.Errorf("%s has no index", dir)
	}
	return pushed, nil
}
