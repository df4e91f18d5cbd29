package k8s

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeconfig is a file by which programs are the server's administrator.
func (s *apiServer) kubeconfig() string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "config")
	if err := os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, s.config.Host, s.config.BearerToken), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// operator is a shell with kubectl.
func (s *apiServer) operator() func(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	config := s.kubeconfig()
	return func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(s.t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary(s.t, "kubectl"))+":"+os.Getenv("PATH"), "KUBECONFIG="+config, "REELWAY_ROLLOUT_SECONDS=240")
		return cmd
	}
}

// The secrets that are made up and the rollout are what an operator types: they
// work on a fresh cluster, wait for the migration, leave the services alone when it
// fails, and replace its job the next time.
func TestRollout(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.crds(customKinds(t))
	ctx := t.Context()
	command := s.operator()
	if out, err := command("bash", "-c", root+"/deploy/k8s/secrets | kubectl create -f -").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if made, err := s.client.CoreV1().Secrets("reelway").Get(ctx, "nats-tls", metav1.GetOptions{}); err != nil || made.Type != corev1.SecretTypeTLS {
		t.Errorf("%v %v", made, err)
	}
	roll := func() (wait func() (string, error)) {
		var out bytes.Buffer
		cmd := command(root+"/deploy/k8s/rollout", root+"/deploy/k8s/overlays/staging")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() (string, error) { err := cmd.Wait(); return out.String(), err }
	}
	// No controller runs here: the test is the one of jobs, and the one of
	// deployments.
	var last string
	finish := func(condition batchv1.JobConditionType) {
		t.Helper()
		var job *batchv1.Job
		s.eventually("a new job is there", func() bool {
			var err error
			job, err = s.client.BatchV1().Jobs("reelway").Get(ctx, "migrate", metav1.GetOptions{})
			return err == nil && string(job.UID) != last
		})
		last = string(job.UID)
		now := metav1.Now()
		job.Status.StartTime = &now
		reason := batchv1.JobFailureTarget
		if condition == batchv1.JobComplete {
			reason, job.Status.CompletionTime, job.Status.Succeeded = batchv1.JobSuccessCriteriaMet, &now, 1
		}
		job.Status.Conditions = []batchv1.JobCondition{{Type: reason, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now}}
		if _, err := s.client.BatchV1().Jobs("reelway").UpdateStatus(ctx, job, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	deployments := func() int {
		list, err := s.client.AppsV1().Deployments("reelway").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}

	wait := roll()
	finish(batchv1.JobFailed)
	if out, err := wait(); err == nil || !strings.Contains(out, "left as they are") || deployments() != 0 {
		t.Fatalf("after a failed migration: %v, %d deployments\n%s", err, deployments(), out)
	}
	for range 2 { // a new cluster, and one that is as it should be
		wait = roll()
		finish(batchv1.JobComplete)
		s.eventually("the deployments are there", func() bool { return deployments() == 6 })
		list, err := s.client.AppsV1().Deployments("reelway").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Items {
			d.Status.ObservedGeneration, d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas = d.Generation, *d.Spec.Replicas, *d.Spec.Replicas, *d.Spec.Replicas, *d.Spec.Replicas
			if _, err := s.client.AppsV1().Deployments("reelway").UpdateStatus(ctx, &d, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := wait(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
