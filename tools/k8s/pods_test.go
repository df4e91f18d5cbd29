package k8s

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// environment is what a container is started with, secrets as "secret".
func (m manifests) environment(t *testing.T, c corev1.Container) map[string]string {
	t.Helper()
	maps := map[string]map[string]string{}
	for _, cm := range all[corev1.ConfigMap](t, m, "ConfigMap") {
		maps[cm.Name] = cm.Data
	}
	env := map[string]string{}
	for _, f := range c.EnvFrom {
		if f.ConfigMapRef == nil {
			t.Errorf("%s takes a whole secret into its environment", c.Image)
			continue
		}
		for k, v := range maps[f.ConfigMapRef.Name] {
			env[k] = v
		}
	}
	for _, e := range c.Env {
		switch {
		case e.ValueFrom == nil:
			env[e.Name] = e.Value
		case e.ValueFrom.ConfigMapKeyRef != nil:
			v, ok := maps[e.ValueFrom.ConfigMapKeyRef.Name][e.ValueFrom.ConfigMapKeyRef.Key]
			if !ok {
				t.Errorf("%s: %s is in no map", c.Image, e.Name)
			}
			env[e.Name] = v
		default:
			env[e.Name] = "secret"
		}
	}
	return env
}

var helps sync.Map // of a service, once

// settings are what a service's --help lists.
func settings(t *testing.T, service string) string {
	t.Helper()
	help, _ := helps.LoadOrStore(service, sync.OnceValue(func() string {
		cmd := exec.Command("go", "run", "./cmd/"+service, "--help")
		cmd.Dir, cmd.Env = filepath.Join(root, "services", service), append(os.Environ(), "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s --help: %v\n%s", service, err, out)
		}
		return string(out)
	}))
	text, ok := help.(func() string)
	if !ok {
		t.Fatal("no help")
	}
	return text()
}

// service is whose image a container runs.
func service(c corev1.Container) string {
	name, _, _ := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
	return name
}

// Every setting in a manifest is one that the service knows, since it refuses
// others; and what a secret is for never stands in a map.
func TestSettings(t *testing.T) {
	t.Parallel()
	secretName := regexp.MustCompile(`(_KEY|_SECRET|_PASSWORD|_PREVIOUS)$|DATABASE_URL`)
	for _, overlay := range overlays {
		m := render(t, overlay)
		for _, w := range m.pods {
			c := w.container(t)
			if service(c) == "nats" {
				continue
			}
			help := settings(t, service(c))
			env := m.environment(t, c)
			for name, value := range env {
				if strings.HasPrefix(name, "REELWAY_") && !strings.Contains(help, "\n  "+name+" ") {
					t.Errorf("%s: %s does not know %s", overlay, service(c), name)
				}
				if secretName.MatchString(name) && value != "secret" {
					t.Errorf("%s: %s of %s is not from a secret", overlay, name, w.name)
				}
			}
			if env["REELWAY_NATS_STREAMS"] == "find" == (service(c) == "ledger") && w.name != "simulator" {
				t.Errorf("%s: %s has streams %q: the ledger alone makes them", overlay, w.name, env["REELWAY_NATS_STREAMS"])
			}
			replicas := "3"
			if overlay == "development" {
				replicas = "1"
			}
			if w.name != "simulator" && env["REELWAY_NATS_REPLICAS"] != replicas {
				t.Errorf("%s: %s has %s replicas of streams", overlay, w.name, env["REELWAY_NATS_REPLICAS"])
			}
			switch most := env["REELWAY_CAP_PRODUCTION"]; {
			case w.name != "intake":
			case overlay == "production" && most != "2160p", overlay != "production" && most != "720p":
				t.Errorf("%s: accounts of the production tier have %s", overlay, most)
			}
		}
	}
}

// Every secret that must be there is made by deploy/k8s/secrets, or is one of the
// few that docs/deploy.md tells how to make.
func TestSecrets(t *testing.T) {
	t.Parallel()
	made := madeSecrets(t)
	if a, b := made, madeSecrets(t); a["nats-users"].StringData["ledger"] == b["nats-users"].StringData["ledger"] || len(a["nats-tls"].Data["tls.key"]) == 0 {
		t.Error("secrets are not made up")
	}
	doc, err := os.ReadFile(root + "/docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range overlays {
		m := render(t, overlay)
		known := func(name, key string) bool {
			s, ok := made[name]
			_, text := s.StringData[key]
			_, data := s.Data[key]
			// The first is the operator's of PostgreSQL.
			return name == "postgres-app" && key == "uri" || name == "postgres-ca" && strings.Contains(string(doc), "`postgres-ca`") || ok && (text || data) || (name == "ledger" && key == "database-url" || name == "mail") && strings.Contains(string(doc), "`"+key+"`")
		}
		for _, w := range m.pods {
			c := w.container(t)
			for _, e := range c.Env {
				if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
					continue
				}
				ref := e.ValueFrom.SecretKeyRef
				if ref.Optional == nil || !*ref.Optional {
					if !known(ref.Name, ref.Key) {
						t.Errorf("%s: nobody makes %s of secret %s", overlay, ref.Key, ref.Name)
					}
				} else if !strings.Contains(string(doc), "`"+ref.Key+"`") {
					t.Errorf("%s: docs/deploy.md does not tell of %s in secret %s", overlay, ref.Key, ref.Name)
				}
			}
			for _, v := range w.spec.Volumes {
				if v.Secret == nil {
					continue
				}
				for _, item := range v.Secret.Items {
					if !known(v.Secret.SecretName, item.Key) {
						t.Errorf("%s: nobody makes %s of secret %s", overlay, item.Key, v.Secret.SecretName)
					}
				}
			}
		}
	}
}

// With certificates between services each pod has its own, read-only, whose secret
// docs/deploy.md tells of, and judges by one CA.
func TestCertificates(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(root + "/docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	m := render(t, mutual)
	for _, w := range m.pods {
		c, name, dir := w.container(t), "reelway-tls-"+service(w.container(t)), "/etc/reelway/tls"
		if service(c) == "nats" {
			dir = "/etc/nats-tls"
		}
		i := slices.IndexFunc(w.spec.Volumes, func(v corev1.Volume) bool { return v.Secret != nil && v.Secret.SecretName == name })
		if i < 0 || !slices.ContainsFunc(c.VolumeMounts, func(v corev1.VolumeMount) bool {
			return v.Name == w.spec.Volumes[i].Name && v.MountPath == dir && v.ReadOnly
		}) {
			t.Errorf("%s %s has no certificate of its own", w.kind, w.name)
		}
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/deploy.md does not tell of %s", name)
		}
		if service(c) == "nats" {
			continue
		}
		env := m.environment(t, c)
		if env["REELWAY_NATS_TLS_DIR"] != dir || env["REELWAY_NATS_CA"] != "" {
			t.Errorf("%s: %v", w.name, env)
		}
		if calls := strings.Contains(settings(t, service(c)), "\n  REELWAY_TLS_DIR ") && w.kind == "Deployment"; (env["REELWAY_TLS_DIR"] == dir) != calls {
			t.Errorf("%s speaks to the ledger with %q", w.name, env["REELWAY_TLS_DIR"])
		}
		if (env["PGSSLMODE"] == "verify-full") != (service(c) == "ledger") {
			t.Errorf("%s: PGSSLMODE is %q", w.name, env["PGSSLMODE"])
		}
	}
	for _, cm := range all[corev1.ConfigMap](t, m, "ConfigMap") {
		if strings.HasPrefix(cm.Name, "nats-") && !strings.Contains(cm.Data["tls.conf"], "verify: true") {
			t.Errorf("NATS asks for no certificate: %s", cm.Data["tls.conf"])
		}
	}
}

// work is how long each service's longest piece of work in hand may take when it
// is told to stop (bus.Consumer.Timeout and what the services make of it), and how
// long its doors wait for calls (run.HTTP, rpc.Component).
var work = map[string]time.Duration{
	"intake":     10 * time.Second,
	"dispatcher": (60 + 15 + 15) * time.Second,
	"callback":   10 * time.Second,
	"ledger":     (5 + 30) * time.Second,
	"archiver":   16 * time.Minute,
	"notifier":   10 * time.Second,
	"simulator":  10 * time.Second,
}

// A pod has the time that its process takes to drain: to be not ready, to finish
// the work in hand, and 15 s for the ops door and telemetry.
func TestGrace(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		m := render(t, overlay)
		for _, w := range m.pods {
			c := w.container(t)
			need, ok := work[service(c)]
			if w.kind != "Deployment" {
				continue
			}
			if !ok {
				t.Errorf("nothing is known of how %s drains", w.name)
			}
			wait := time.Duration(0)
			if s := m.environment(t, c)["REELWAY_DRAIN_FOR"]; s != "" {
				var err error
				if wait, err = time.ParseDuration(s); err != nil {
					t.Error(err)
				}
			}
			if door := slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name != "ops" }); door && wait < 5*time.Second {
				t.Errorf("%s: doors of %s close before load balancers notice", overlay, w.name)
			}
			if grace := time.Duration(*w.spec.TerminationGracePeriodSeconds) * time.Second; grace < wait+need+15*time.Second {
				t.Errorf("%s: %s is killed after %v, and needs %v", overlay, w.name, grace, wait+need+15*time.Second)
			}
		}
	}
}

// Doors are where the settings say; probes and services ask at ports that exist;
// budgets and services select pods; images are tagged.
func TestDoors(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		m := render(t, overlay)
		for _, w := range m.pods {
			c := w.container(t)
			ports := map[string]int32{}
			for _, p := range c.Ports {
				ports[p.Name] = p.ContainerPort
			}
			env := m.environment(t, c)
			for setting, port := range map[string]string{"REELWAY_OPS_ADDR": "ops", "REELWAY_HTTP_ADDR": "http", "REELWAY_CALLBACK_ADDR": "http",
				"REELWAY_NOTIFIER_ADDR": "http", "REELWAY_SIMULATOR_ADDR": "http", "REELWAY_GRPC_ADDR": "grpc"} {
				if addr := env[setting]; addr != "" && addr != ":"+itoa(ports[port]) {
					t.Errorf("%s: %s is %s, and port %s is %d", overlay, setting, addr, port, ports[port])
				}
			}
			if w.kind == "Deployment" {
				for path, p := range map[string]*corev1.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
					if p == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.StrVal != "ops" {
						t.Errorf("%s: %s is not asked for %s", overlay, w.name, path)
					}
				}
				if w.spec.EnableServiceLinks == nil || *w.spec.EnableServiceLinks {
					t.Errorf("%s: %s is told of its neighbours", overlay, w.name)
				}
			}
			if i := strings.LastIndex(c.Image, ":"); i < 0 || strings.HasSuffix(c.Image, ":latest") || !strings.Contains(c.Image, "/") {
				t.Errorf("%s: image %s", overlay, c.Image)
			}
		}
		for _, s := range all[corev1.Service](t, m, "Service") {
			w := m.selected(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
			if len(w) != 1 {
				t.Errorf("%s: service %s is of %d workloads", overlay, s.Name, len(w))
				continue
			}
			for _, p := range s.Spec.Ports {
				if !slices.ContainsFunc(w[0].container(t).Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
					t.Errorf("%s: service %s has no port %s", overlay, s.Name, p.TargetPort.StrVal)
				}
			}
		}
		budgets := map[string]bool{}
		for _, b := range all[policyv1.PodDisruptionBudget](t, m, "PodDisruptionBudget") {
			for _, w := range m.selected(b.Spec.Selector) {
				budgets[w.name] = true
			}
		}
		for _, d := range all[appsv1.Deployment](t, m, "Deployment") {
			if !budgets[d.Name] && d.Name != "simulator" {
				t.Errorf("%s: %s has no disruption budget", overlay, d.Name)
			}
		}
	}
}

func (m manifests) selected(s *metav1.LabelSelector) (out []workload) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil
	}
	for _, w := range m.pods {
		if sel.Matches(labels.Set(w.labels)) {
			out = append(out, w)
		}
	}
	return out
}
