package k8s

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const root = "../.."

// overlays are all that are delivered, and the one that adds certificates between
// services; each is proven by itself.
var overlays = []string{"development", "staging", "production", mutual}

const mutual = "../../../tools/k8s/testdata/mtls"

// manifests are what an overlay says.
type manifests struct {
	text    []byte
	objects []*unstructured.Unstructured
	pods    []workload
}

// workload is what makes pods.
type workload struct {
	kind, name string
	labels     map[string]string
	spec       corev1.PodSpec
	claims     []corev1.PersistentVolumeClaim
}

func render(t *testing.T, overlay string) manifests {
	t.Helper()
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, "deploy/k8s/overlays", overlay))
	if err != nil {
		t.Fatal(err)
	}
	text, err := res.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	m := manifests{text: text, objects: decode(t, text)}
	for _, o := range m.objects {
		w := workload{kind: o.GetKind(), name: o.GetName()}
		switch w.kind {
		case "Deployment":
			d := as[appsv1.Deployment](t, o)
			w.labels, w.spec = d.Spec.Template.Labels, d.Spec.Template.Spec
		case "StatefulSet":
			d := as[appsv1.StatefulSet](t, o)
			w.labels, w.spec, w.claims = d.Spec.Template.Labels, d.Spec.Template.Spec, d.Spec.VolumeClaimTemplates
		case "Job":
			d := as[batchv1.Job](t, o)
			w.labels, w.spec = d.Spec.Template.Labels, d.Spec.Template.Spec
		default:
			continue
		}
		m.pods = append(m.pods, w)
	}
	if len(m.pods) < 8 {
		t.Fatalf("%s has %d workloads", overlay, len(m.pods))
	}
	return m
}

func as[T any](t *testing.T, o *unstructured.Unstructured) T {
	t.Helper()
	var v T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &v, true); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return v
}

func all[T any](t *testing.T, m manifests, kind string) (out []T) {
	t.Helper()
	for _, o := range m.objects {
		if o.GetKind() == kind {
			out = append(out, as[T](t, o))
		}
	}
	return out
}

func decode(t *testing.T, text []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Object != nil {
			out = append(out, o)
		}
	}
}

// customKinds are the definitions of the kinds of others, from their modules.
func customKinds(t *testing.T) (out []*unstructured.Unstructured) {
	t.Helper()
	keda := moduleDir(t, "github.com/kedacore/keda/v2@v2.21.0")
	prometheus := moduleDir(t, "github.com/prometheus-operator/prometheus-operator@v0.85.0")
	gateway := moduleDir(t, "sigs.k8s.io/gateway-api@v1.6.0")
	for _, path := range []string{
		keda + "/config/crd/bases/keda.sh_scaledobjects.yaml",
		prometheus + "/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
		prometheus + "/example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
		gateway + "/config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
		gateway + "/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
		gateway + "/config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
		// CloudNativePG's module is not on the proxy: a few fields of its own, by its
		// documentation, catch what is misspelt.
		"testdata/postgresql.cnpg.io_clusters.yaml",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, decode(t, text)...)
	}
	return out
}

// madeSecrets are those that deploy/k8s/secrets writes.
func madeSecrets(t *testing.T) map[string]corev1.Secret {
	t.Helper()
	text, err := exec.Command(root + "/deploy/k8s/secrets").Output()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]corev1.Secret{}
	for _, o := range decode(t, text) {
		if o.GetKind() == "Secret" {
			s := as[corev1.Secret](t, o)
			out[s.Name] = s
		}
	}
	return out
}

// container is a workload's only one.
func (w workload) container(t *testing.T) corev1.Container {
	t.Helper()
	if len(w.spec.Containers) != 1 || len(w.spec.InitContainers) != 0 {
		t.Fatalf("%s has %d containers", w.name, len(w.spec.Containers))
	}
	return w.spec.Containers[0]
}

func sorted(s []string) []string { slices.Sort(s); return slices.Compact(s) }
