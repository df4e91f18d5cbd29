// Package storetest gives a test a real S3 server (versitygw) or Google Cloud
// Storage as fake-gcs-server has it, each a process of its own on a random
// port, with its files in the test's directory. `make stores` builds them; one
// that is missing is a failure, never a skip.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// The credentials of every S3 server here. They are put into the environment,
// where a bucket's URL finds them; other tests of the process go on in parallel.
const (
	AccessKey = "storetest"
	SecretKey = "storetest-secret"
)

// Name is the bucket's on either server.
const Name = "reelway"

// S3 is a server with one empty, private bucket.
type S3 struct {
	Endpoint string // http://127.0.0.1:…
	URL      string // the bucket's, for bucket.Config
	Client   *s3.Client
}

// NewS3 starts a server that ends with the test.
func NewS3(t testing.TB) *S3 {
	t.Helper()
	Credentials(t)
	files, meta := t.TempDir(), t.TempDir()
	addr := serve(t, "versitygw", "/health", func(addr string) []string {
		return []string{"--port", addr, "--access", AccessKey, "--secret", SecretKey, "--quiet", "--health", "/health", "posix", "--sidecar", meta, files}
	})
	x := &S3{Endpoint: "http://" + addr, URL: URL("http://" + addr)}
	x.Client = s3.New(s3.Options{Region: "us-east-1", BaseEndpoint: &x.Endpoint, UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, "")})
	if _, err := x.Client.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(Name)}); err != nil {
		t.Fatal(err)
	}
	return x
}

// Credentials puts the servers' credentials into the environment.
func Credentials(t testing.TB) {
	t.Helper()
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey, "AWS_EC2_METADATA_DISABLED": "true"} {
		if err := os.Setenv(k, v); err != nil { // not t.Setenv: tests are parallel, and want the same
			t.Fatal(err)
		}
	}
}

// URL is the bucket's at an S3 endpoint, which may be a proxy's.
func URL(endpoint string) string {
	return "s3://" + Name + "?region=us-east-1&use_path_style=true&endpoint=" + endpoint
}

// Unfinished is how many uploads lie in the bucket without an end.
func (x *S3) Unfinished(t testing.TB) int {
	t.Helper()
	r, err := x.Client.ListMultipartUploads(context.Background(), &s3.ListMultipartUploadsInput{Bucket: aws.String(Name)})
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Uploads)
}

// Objects is how many lie in the bucket whose keys begin with a prefix.
func (x *S3) Objects(t testing.TB, prefix string) int {
	t.Helper()
	r, err := x.Client.ListObjectsV2(context.Background(), &s3.ListObjectsV2Input{Bucket: aws.String(Name), Prefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Contents)
}

// Begin begins an upload and leaves it, as a killed process does.
func (x *S3) Begin(t testing.TB, key string) {
	t.Helper()
	if _, err := x.Client.CreateMultipartUpload(context.Background(), &s3.CreateMultipartUploadInput{Bucket: aws.String(Name), Key: &key}); err != nil {
		t.Fatal(err)
	}
}

// Publish lets anybody read the bucket.
func (x *S3) Publish(t testing.TB) {
	t.Helper()
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::` + Name + `/*"}]}`
	if _, err := x.Client.PutBucketPolicy(context.Background(), &s3.PutBucketPolicyInput{Bucket: aws.String(Name), Policy: &policy}); err != nil {
		t.Fatal(err)
	}
}

// NewGCS starts a server with one empty bucket and sets where every bucket of
// this process that is opened from now on finds it: one at a time. It believes
// every signature. It returns the bucket's URL without parameters.
func NewGCS(t testing.TB) string {
	t.Helper()
	addr := serve(t, "fake-gcs-server", "/_internal/healthcheck", func(addr string) []string {
		host, port, _ := strings.Cut(addr, ":")
		return []string{"-scheme", "http", "-host", host, "-port", port, "-backend", "memory", "-public-host", addr, "-external-url", "http://" + addr}
	})
	resp, err := http.Post("http://"+addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"`+Name+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("make bucket: status %d", resp.StatusCode)
	}
	if err := os.Setenv("STORAGE_EMULATOR_HOST", addr); err != nil {
		t.Fatal(err)
	}
	return "gs://" + Name
}

// serve starts a server and waits until it answers on its health path. A port
// that another process takes first is no fault of the test's.
func serve(t testing.TB, name, health string, args func(addr string) []string) (addr string) {
	t.Helper()
	var log output
	for range 5 {
		addr = free(t)
		cmd := exec.Command(tool(t, name), args(addr)...)
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		if answers("http://"+addr+health, ended) {
			t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
			return addr
		}
		_ = cmd.Process.Kill()
		<-ended
	}
	t.Fatalf("%s does not start:\n%s", name, &log)
	return ""
}

// answers waits until url answers 200; false when the server ended before, or
// after a minute.
func answers(url string, ended <-chan struct{}) bool {
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for {
		if resp, err := client.Get(url); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-ended:
			return false
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
}

func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// tool is the path of a built server in the repository's .bin.
func tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("storetest: no go.work above the test's directory")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, ".bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(fmt.Errorf("storetest: run 'make stores': %w", err))
	}
	return path
}

// output keeps what a server says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

// String is all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
