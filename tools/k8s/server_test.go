package k8s

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// patience is how long a condition may take on a loaded machine.
const patience = 2 * time.Minute

// apiServer is a kube-apiserver with an etcd of its own, and its administrator.
type apiServer struct {
	t        *testing.T
	config   *rest.Config
	client   *kubernetes.Clientset
	dynamic  dynamic.Interface
	warnings *warnings
}

// warnings are what the server said besides its answers.
type warnings struct {
	mu  sync.Mutex
	all []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// binary is a program that make test-k8s has built.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("REELWAY_K8S_BIN")
	if dir == "" {
		t.Fatal("REELWAY_K8S_BIN does not say where the programs are: run make test-k8s")
	}
	return filepath.Join(dir, name)
}

func startServer(t *testing.T) *apiServer {
	t.Helper()
	dir := t.TempDir()
	client, peer, port := freePort(t), freePort(t), freePort(t)
	etcdURL := fmt.Sprint("http://127.0.0.1:", client)
	run(t, binary(t, "etcd"), "--data-dir", dir+"/etcd", "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", fmt.Sprint("http://127.0.0.1:", peer))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const token = "an-administrator-of-this-test"
	accounts := write("accounts.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	run(t, binary(t, "kube-apiserver"), "--etcd-servers", etcdURL, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port", fmt.Sprint(port), "--cert-dir", dir+"/certs", "--token-auth-file", write("tokens", []byte(token+",admin,admin,system:masters\n")),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://test.invalid",
		"--service-account-signing-key-file", accounts, "--service-account-key-file", accounts,
		"--endpoint-reconciler-type=none", "--v=0")
	s := &apiServer{t: t, warnings: &warnings{}}
	s.config = &rest.Config{Host: fmt.Sprint("https://127.0.0.1:", port), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS: 1000, Burst: 1000, WarningHandler: s.warnings}
	if s.client, err = kubernetes.NewForConfig(s.config); err != nil {
		t.Fatal(err)
	}
	if s.dynamic, err = dynamic.NewForConfig(s.config); err != nil {
		t.Fatal(err)
	}
	s.eventually("the API server is ready", func() bool {
		_, err := s.client.RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err == nil
	})
	return s
}

// freePort is one that is free now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no TCP address")
	}
	return addr.Port
}

// run starts a program that ends with the test.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run make test-k8s, which builds it", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // stopped by a signal: an error by nature
		kill.Stop()
		if t.Failed() {
			s := log.String()
			t.Logf("log of %s:\n%s", filepath.Base(name), s[max(len(s)-4000, 0):])
		}
	})
}

func (s *apiServer) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// crds teaches the server the kinds of others.
func (s *apiServer) crds(objects []*unstructured.Unstructured) {
	s.t.Helper()
	s.apply(objects)
	for _, o := range objects {
		s.eventually(o.GetName()+" is served", func() bool {
			got, err := s.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Get(s.t.Context(), o.GetName(), metav1.GetOptions{})
			if err != nil {
				return false
			}
			conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
			for _, c := range conditions {
				if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
					return true
				}
			}
			return false
		})
	}
	s.warnings.take() // theirs
}

// apply applies objects on the server's side with strict validation: what is
// unknown or twice is refused.
func (s *apiServer) apply(objects []*unstructured.Unstructured) {
	s.t.Helper()
	mapper := s.mapper()
	for _, o := range objects {
		if err := s.applyOne(mapper, o); err != nil {
			s.t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

func (s *apiServer) mapper() meta.RESTMapper {
	s.t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		s.t.Fatal(err)
	}
	return restmapper.NewDiscoveryRESTMapper(groups)
}

func (s *apiServer) applyOne(mapper meta.RESTMapper, o *unstructured.Unstructured) error {
	gvk := o.GroupVersionKind()
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var r dynamic.ResourceInterface = s.dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		r = s.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace())
	}
	_, err = r.Patch(s.t.Context(), o.GetName(), types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: "reelway-test", FieldValidation: metav1.FieldValidationStrict})
	return err
}

// moduleDir downloads a module, checked by the checksum database, and says where
// it is.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var m struct{ Dir, Error string }
	if jerr := json.Unmarshal(out, &m); err != nil || jerr != nil || m.Error != "" {
		t.Fatalf("download %s: %v %v %s", module, err, jerr, strings.TrimSpace(m.Error))
	}
	return m.Dir
}

func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) }
