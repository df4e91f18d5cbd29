// Command images builds the OCI images of Reelway's services without a
// container engine, and pushes them.
//
//	images -version V -revision COMMIT -time UNIX [-out DIR] [-arch amd64,arm64] [SERVICE...]
//	images -out DIR -push REGISTRY/PREFIX [SERVICE...]
//
// Each service becomes an OCI layout DIR/SERVICE with an index of one image for
// each architecture, and the SBOM (SPDX 2.3) of each image as its referrer. The
// same sources and toolchain give the same digest, on any machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// services are those of which images are made; reelway is all in one.
var services = []string{"intake", "dispatcher", "callback", "ledger", "archiver", "notifier", "simulator", "reelway"}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		log.Fatal("images: ", err)
	}
}

// run writes a line to out for each image: its name and digest.
func run(ctx context.Context, out io.Writer) error {
	root := flag.String("root", "../..", "the repository")
	layouts := flag.String("out", "", "where the layouts are")
	version := flag.String("version", "", "version, as a label and the tag")
	revision := flag.String("revision", "", "commit, as a label")
	unix := flag.Int64("time", 0, "time of the commit in seconds, as every date in the images")
	archs := flag.String("arch", "amd64,arm64", "architectures")
	push := flag.String("push", "", "push what is built to this registry and prefix")
	flag.Parse()
	names := flag.Args()
	if len(names) == 0 {
		names = services
	}
	if *layouts == "" {
		return errors.New("-out is required")
	}
	for _, name := range names {
		dir := filepath.Join(*layouts, name)
		if *push != "" {
			ref, err := pushLayout(ctx, dir, *push+"/"+name)
			if err != nil {
				return fmt.Errorf("push %s: %w", name, err)
			}
			if _, err := fmt.Fprintln(out, ref); err != nil {
				return err
			}
			continue
		}
		if *version == "" || *revision == "" || *unix == 0 {
			return errors.New("-version, -revision and -time are required")
		}
		digest, err := buildLayout(ctx, build{
			root: *root, service: name, archs: strings.Split(*archs, ","),
			version: *version, revision: *revision, time: time.Unix(*unix, 0).UTC(),
		}, dir)
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if _, err := fmt.Fprintf(out, "%s@%s\n", name, digest); err != nil {
			return err
		}
	}
	return nil
}

// compile builds a service's static binary, as its module alone.
func compile(ctx context.Context, b build, arch, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "./cmd/"+b.service)
	cmd.Dir = filepath.Join(b.root, "services", b.service)
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build for %s: %w\n%s", arch, err, msg)
	}
	return nil
}
