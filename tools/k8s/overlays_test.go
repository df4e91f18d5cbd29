package k8s

import (
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Every overlay is taken by a real API server without a word: nothing unknown,
// nothing deprecated, and every pod is one that a restricted namespace admits.
func TestOverlays(t *testing.T) {
	t.Parallel()
	kinds := customKinds(t)
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			m := render(t, overlay)
			s := startServer(t)
			s.crds(kinds)
			// In the order of deploy/k8s/rollout: what the migration needs comes first,
			// and needs nothing of the rest.
			var before, rest []*unstructured.Unstructured
			for _, o := range m.objects {
				if o.GetLabels()["reelway.dev/phase"] == "before" {
					before = append(before, o)
				} else {
					rest = append(rest, o)
				}
			}
			s.apply(before)
			s.admits(m, func(w workload) bool { return w.kind == "Job" || w.kind == "StatefulSet" })
			s.apply(rest)
			s.admits(m, func(workload) bool { return true })
			s.apply(m.objects) // again, and nothing is in the way
			if w := s.warnings.take(); len(w) > 0 {
				t.Errorf("the server warns: %q", w)
			}
			s.refuses(m)
			s.powerless(m)
		})
	}
}

func pod(w workload) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: w.name + "-", Namespace: "reelway", Labels: w.labels}, Spec: *w.spec.DeepCopy()}
	for _, c := range w.claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
	}
	return p
}

// admits makes a pod of each workload, as its controller would, and reads the maps
// and accounts that it names.
func (s *apiServer) admits(m manifests, which func(workload) bool) {
	s.t.Helper()
	ctx := s.t.Context()
	for _, w := range m.pods {
		if !which(w) {
			continue
		}
		if _, err := s.client.CoreV1().Pods("reelway").Create(ctx, pod(w), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}); err != nil {
			s.t.Errorf("no pod for %s %s: %v", w.kind, w.name, err)
		}
		for _, name := range configMaps(w.spec) {
			if _, err := s.client.CoreV1().ConfigMaps("reelway").Get(ctx, name, metav1.GetOptions{}); err != nil {
				s.t.Errorf("%s: %v", w.name, err)
			}
		}
	}
}

func configMaps(spec corev1.PodSpec) (out []string) {
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil {
			out = append(out, v.ConfigMap.Name)
		}
	}
	for _, c := range spec.Containers {
		for _, f := range c.EnvFrom {
			if f.ConfigMapRef != nil {
				out = append(out, f.ConfigMapRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				out = append(out, e.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
	}
	return sorted(out)
}

// refuses shows that the server would have said no.
func (s *apiServer) refuses(m manifests) {
	s.t.Helper()
	rooted := pod(m.pods[0])
	rooted.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = new(true)
	if _, err := s.client.CoreV1().Pods("reelway").Create(s.t.Context(), rooted, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !refused(err) || !strings.Contains(err.Error(), "restricted") {
		s.t.Errorf("a pod with rights was not refused: %v", err)
	}
	i := slices.IndexFunc(m.objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	wrong := m.objects[i].DeepCopy()
	if err := unstructured.SetNestedField(wrong.Object, true, "spec", "template", "spec", "enableServiceLink"); err != nil {
		s.t.Fatal(err)
	}
	if err := s.applyOne(s.mapper(), wrong); err == nil {
		s.t.Error("a misspelt field was not refused")
	}
	for _, o := range m.objects {
		if o.GetKind() != "ScaledObject" && o.GetKind() != "Cluster" && o.GetKind() != "ServiceMonitor" && o.GetKind() != "PrometheusRule" && o.GetKind() != "GRPCRoute" {
			continue
		}
		wrong := o.DeepCopy()
		if err := unstructured.SetNestedField(wrong.Object, "x", "spec", "misspelt"); err != nil {
			s.t.Fatal(err)
		}
		if err := s.applyOne(s.mapper(), wrong); err == nil {
			s.t.Errorf("a misspelt field of %s was not refused", o.GetKind())
		}
	}
	s.warnings.take()
}

// powerless asks, as each service account, what it may do: nothing but to ask
// who it is. No pod is given its token besides.
func (s *apiServer) powerless(m manifests) {
	s.t.Helper()
	accounts := all[corev1.ServiceAccount](s.t, m, "ServiceAccount")
	names := map[string]bool{}
	for _, a := range accounts {
		names[a.Name] = true
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			s.t.Errorf("account %s gives its token away", a.Name)
		}
		if rights := s.rights(a.Name); len(rights) > 0 {
			s.t.Errorf("account %s may %v", a.Name, rights)
		}
		if s.may(a.Name, "get", "secrets") || s.may(a.Name, "create", "pods") {
			s.t.Errorf("account %s may read secrets or make pods", a.Name)
		}
	}
	for _, w := range m.pods {
		if !names[w.spec.ServiceAccountName] {
			s.t.Errorf("%s runs as %q, which is not its own account", w.name, w.spec.ServiceAccountName)
		}
		if w.spec.AutomountServiceAccountToken == nil || *w.spec.AutomountServiceAccountToken {
			s.t.Errorf("%s is given a token", w.name)
		}
	}
	// The question is one that can be answered with yes.
	name := accounts[0].Name
	if _, err := s.client.RbacV1().Roles("reelway").Create(s.t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "control"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.client.RbacV1().RoleBindings("reelway").Create(s.t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "control"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "control"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: "reelway"}}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("a right that was given is seen", func() bool { return s.may(name, "get", "secrets") && len(s.rights(name)) > 0 })
}

func (s *apiServer) as(account string) *kubernetes.Clientset {
	s.t.Helper()
	c := rest.CopyConfig(s.config)
	c.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:reelway:" + account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:reelway", "system:authenticated"}}
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// rights are what an account may do with resources, besides asking for them.
func (s *apiServer) rights(account string) (out []string) {
	s.t.Helper()
	r, err := s.as(account).AuthorizationV1().SelfSubjectRulesReviews().Create(s.t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "reelway"}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, rule := range r.Status.ResourceRules {
		for _, group := range rule.APIGroups {
			if group != "authorization.k8s.io" && group != "authentication.k8s.io" {
				out = append(out, strings.Join(rule.Verbs, "+")+" "+group+"/"+strings.Join(rule.Resources, "+"))
			}
		}
	}
	return out
}

func (s *apiServer) may(account, verb, resource string) bool {
	s.t.Helper()
	r, err := s.as(account).AuthorizationV1().SelfSubjectAccessReviews().Create(s.t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "reelway", Verb: verb, Resource: resource}}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Status.Allowed
}
