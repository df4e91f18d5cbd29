package k8s

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// The doctor beside a whole installation is taken by a real API server, suspended;
// its pod is admitted, has the database of the migration and no settings that it
// does not know, and reaches NATS and PostgreSQL.
func TestDoctor(t *testing.T) {
	t.Parallel()
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "testdata/doctor")
	if err != nil {
		t.Fatal(err)
	}
	text, err := res.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	m := manifests{text: text, objects: decode(t, text)}
	jobs := all[batchv1.CronJob](t, m, "CronJob")
	if len(jobs) != 1 || jobs[0].Spec.Suspend == nil || !*jobs[0].Spec.Suspend {
		t.Fatalf("%+v", jobs)
	}
	template := jobs[0].Spec.JobTemplate.Spec.Template
	w := workload{kind: "CronJob", name: "doctor", labels: template.Labels, spec: template.Spec}
	m.pods = []workload{w}

	list := exec.CommandContext(t.Context(), "go", "run", "./cmd/reelway", "settings")
	list.Dir, list.Env = filepath.Join(root, "services/reelway"), append(os.Environ(), "GOWORK=off")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	env := m.environment(t, w.spec.Containers[0])
	for name := range env {
		// Those of a NATS outside it reads as the services do (pkg/bus).
		if strings.HasPrefix(name, "REELWAY_") && !strings.HasPrefix(name, "REELWAY_NATS_") && !strings.Contains("\n"+string(out), "\n"+name+" ") {
			t.Errorf("the doctor does not know %s", name)
		}
	}
	if env["REELWAY_NATS_REPLICAS"] != "3" || env["REELWAY_DATABASE_URL"] != "secret" {
		t.Errorf("%v", env)
	}
	migration := all[batchv1.Job](t, m, "Job")[0].Spec.Template.Spec.Containers[0].Env
	for _, e := range w.spec.Containers[0].Env {
		for _, x := range migration {
			if e.Name == "REELWAY_DATABASE_URL" && x.Name == e.Name && *e.ValueFrom.SecretKeyRef != *x.ValueFrom.SecretKeyRef {
				t.Errorf("the doctor looks at %v, the migration at %v", e.ValueFrom.SecretKeyRef, x.ValueFrom.SecretKeyRef)
			}
		}
	}

	policies := all[networkingv1.NetworkPolicy](t, m, "NetworkPolicy")
	for _, to := range []struct {
		workload
		port int32
		want bool
	}{
		{workload{labels: map[string]string{"app.kubernetes.io/name": "nats"}}, 4222, true},
		{workload{labels: map[string]string{"cnpg.io/cluster": "postgres"}}, 5432, true},
		{workload{labels: map[string]string{"app.kubernetes.io/name": "ledger"}}, 9091, false},
	} {
		if open(policies, w, to.workload, to.port) != to.want {
			t.Errorf("the doctor and port %d of %v: want %v", to.port, to.labels, to.want)
		}
	}

	s := startServer(t)
	s.crds(customKinds(t))
	s.apply(m.objects)
	s.admits(m, func(workload) bool { return true })
	if warned := s.warnings.take(); len(warned) > 0 {
		t.Errorf("the server warns: %q", warned)
	}
}
