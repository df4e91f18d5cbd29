package k8s

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const before, after = "v0.1.0", "v0.2.0"

// stage is the production overlay among real controllers. The test is the scheduler
// and the kubelets: no pod runs, is ready or ends but by step.
type stage struct {
	*apiServer
	held func(corev1.Pod) bool // pods that do not become ready yet; nil for none
}

// versionOf is the tag of a pod's image.
func versionOf(p corev1.Pod) string {
	image := p.Spec.Containers[0].Image
	return image[strings.LastIndex(image, ":")+1:]
}

func ready(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

func (s *stage) pods() []corev1.Pod {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods("reelway").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

func (s *stage) deployments() []appsv1.Deployment {
	s.t.Helper()
	list, err := s.client.AppsV1().Deployments("reelway").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// step gives each new pod a node, lets the migration succeed, and has one pod become
// ready and one that is told to stop end. A pod that somebody else has just changed is
// left for the next step.
func (s *stage) step() {
	s.t.Helper()
	pods, ctx := s.client.CoreV1().Pods("reelway"), s.t.Context()
	check := func(err error) {
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
	var started, ended bool
	for _, p := range s.pods() {
		switch {
		case p.DeletionTimestamp != nil:
			if !ended {
				check(pods.Delete(ctx, p.Name, *metav1.NewDeleteOptions(0)))
				ended = true
			}
		case p.Spec.NodeName == "":
			check(pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "node"}}, metav1.CreateOptions{}))
		case p.Labels["app.kubernetes.io/name"] == "migrate":
			if p.Status.Phase == corev1.PodPending {
				p.Status.Phase = corev1.PodSucceeded
				_, err := pods.UpdateStatus(ctx, &p, metav1.UpdateOptions{})
				check(err)
			}
		case !ready(p) && !started && (s.held == nil || !s.held(p)):
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
			_, err := pods.UpdateStatus(ctx, &p, metav1.UpdateOptions{})
			check(err)
			started = true
		}
	}
}

// rollout runs deploy/k8s/rollout of a copy of the manifests at a version, and steps
// until it has ended. Before each step look judges what there is.
func (s *stage) rollout(version string, look func()) {
	s.t.Helper()
	dir := s.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(root+"/deploy/k8s")); err != nil {
		s.t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlays/production")
	text, err := os.ReadFile(overlay + "/kustomization.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(overlay+"/kustomization.yaml", bytes.ReplaceAll(text, []byte("newTag: "+before), []byte("newTag: "+version)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := s.operator()("bash", dir+"/rollout", overlay)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.eventually("the rollout of "+version+" ends", func() bool {
		look()
		s.step()
		select {
		case err = <-ended:
			return true
		default:
			return false
		}
	})
	if err != nil {
		s.t.Fatalf("rollout of %s: %v\n%s", version, err, out.String())
	}
}

// migrated says whether the migration of a version is done.
func (s *stage) migrated(version string) bool {
	s.t.Helper()
	job, err := s.client.BatchV1().Jobs("reelway").Get(s.t.Context(), "migrate", metav1.GetOptions{})
	return err == nil && job.Status.Succeeded == 1 && strings.HasSuffix(job.Spec.Template.Spec.Containers[0].Image, ":"+version)
}

// counts are a deployment's pods that serve, and all that are not told to stop.
func (s *stage) counts(d appsv1.Deployment) (serving, all int) {
	s.t.Helper()
	for _, p := range s.pods() {
		if p.Labels["app.kubernetes.io/name"] != d.Name || p.DeletionTimestamp != nil {
			continue
		}
		all++
		if ready(p) {
			serving++
		}
	}
	return serving, all
}

// A new version is rolled out by Kubernetes' own controllers: the migration first, then
// pod by pod, never with fewer that serve than before nor more than one too many; and
// budgets let one pod of a service be evicted, and the next one when it is replaced.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	s := &stage{apiServer: startServer(t)}
	s.crds(customKinds(t))
	run(t, binary(t, "kube-controller-manager"), "--kubeconfig", s.kubeconfig(), "--leader-elect=false", "--secure-port=0",
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,job-controller,disruption-controller")

	early := func(version string) {
		for _, p := range s.pods() {
			if name := p.Labels["app.kubernetes.io/name"]; name != "migrate" && name != "nats" && versionOf(p) == version && !s.migrated(version) {
				t.Fatalf("%s of %s was begun before the migration was done", name, version)
			}
		}
	}
	s.rollout(before, func() { early(before) })
	if n := len(s.deployments()); n != 6 {
		t.Fatalf("%d deployments", n)
	}

	// New pods do not become ready until each service has one, which is all that it may.
	surged := func() bool {
		for _, d := range s.deployments() {
			if _, all := s.counts(d); all != int(*d.Spec.Replicas)+1 {
				return false
			}
		}
		return true
	}
	s.held = func(p corev1.Pod) bool { return versionOf(p) == after }
	s.rollout(after, func() {
		early(after)
		for _, d := range s.deployments() {
			want := int(*d.Spec.Replicas)
			if serving, all := s.counts(d); serving < want || all > want+1 {
				t.Fatalf("%s has %d pods that serve of %d, and wants %d", d.Name, serving, all, want)
			}
		}
		if s.held != nil && surged() {
			s.held = nil
		}
	})
	for _, p := range s.pods() {
		if name := p.Labels["app.kubernetes.io/name"]; name != "migrate" && name != "nats" && versionOf(p) != after && p.DeletionTimestamp == nil {
			t.Errorf("%s is of %s", p.Name, versionOf(p))
		}
	}
	if s.held != nil {
		t.Error("the rollout ended before its pods were ready")
	}
	s.evicts("ledger")
}

// evicts has the pods of a service evicted, as when nodes are drained.
func (s *stage) evicts(service string) {
	s.t.Helper()
	evict := func(options *metav1.DeleteOptions) bool {
		for _, p := range s.pods() {
			if p.Labels["app.kubernetes.io/name"] != service || !ready(p) {
				continue
			}
			err := s.client.PolicyV1().Evictions("reelway").Evict(s.t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: "reelway"}, DeleteOptions: options})
			if err != nil && !apierrors.IsTooManyRequests(err) {
				s.t.Fatal(err)
			}
			return err == nil
		}
		return false
	}
	allowed := func(n int32) bool {
		b, err := s.client.PolicyV1().PodDisruptionBudgets("reelway").Get(s.t.Context(), service, metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration == b.Generation && b.Status.DisruptionsAllowed == n
	}
	s.eventually("one may be evicted", func() bool { s.step(); return allowed(1) })
	if !evict(nil) {
		s.t.Fatal("the budget lets none go")
	}
	s.eventually("the budget is used up", func() bool { return allowed(0) })
	if evict(nil) {
		s.t.Error("a second one was evicted before the first was replaced")
	}
	s.eventually("it is replaced, and the next one may go", func() bool { s.step(); return allowed(1) })
	if !evict(&metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}) {
		s.t.Error("the budget lets none go after the replacement")
	}
}
