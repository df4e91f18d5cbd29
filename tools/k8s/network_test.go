package k8s

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// edges are all ways between pods, by workload and port.
var edges = []string{
	"archiver > nats:4222",
	"callback > ledger:9091",
	"callback > nats:4222",
	"dispatcher > ledger:9091",
	"dispatcher > nats:4222",
	"intake > ledger:9091",
	"intake > nats:4222",
	"ledger > nats:4222",
	"migrate > nats:4222",
	"nats > nats:6222",
	"notifier > ledger:9091",
	"notifier > nats:4222",
}

// outward are the ways out of the namespace, and into it by the labels of others.
var outward = []string{
	"archiver > internet:443",
	"callback > internet:443",
	"dispatcher > internet:443",
	"intake > internet:443",
	"notifier > internet:443",
	"gateways > callback:8081",
	"gateways > intake:8080",
	"gateways > intake:9090",
	"gateways > notifier:8082",
	"gateways > notifier:9092",
}

// Pods speak along these edges and no others: each is let out by one end and in
// by the other.
func TestNetwork(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		m := render(t, overlay)
		want := slices.Clone(edges)
		pods := slices.Clone(m.pods)
		switch overlay {
		case "development":
			want = append(want, "archiver > simulator:8090", "dispatcher > simulator:8090", "simulator > callback:8081")
			fallthrough
		case "production":
			// The operator makes these.
			pods = append(pods, workload{name: "postgres", labels: map[string]string{"cnpg.io/cluster": "postgres"}})
			want = append(want, "ledger > postgres:5432", "migrate > postgres:5432", "postgres > postgres:5432")
		}
		policies := all[networkingv1.NetworkPolicy](t, m, "NetworkPolicy")
		var got []string
		for _, from := range pods {
			for _, to := range pods {
				for _, port := range []int32{4222, 5432, 6222, 8080, 8081, 8082, 8090, 8222, 9090, 9091, 9092, 9100} {
					if open(policies, from, to, port) {
						got = append(got, fmt.Sprintf("%s > %s:%d", from.name, to.name, port))
					}
				}
			}
		}
		if got, want := sorted(got), sorted(want); !slices.Equal(got, want) {
			t.Errorf("%s: the network lets through\n%q\nand should\n%q", overlay, got, want)
		}
		var doors []string
		for _, w := range m.pods {
			for _, port := range []int32{8080, 8081, 8082, 8222, 9090, 9091, 9092} {
				if ingress(policies, w, port, func(p networkingv1.NetworkPolicyPeer) bool {
					return p.PodSelector == nil && p.NamespaceSelector != nil && p.NamespaceSelector.MatchLabels["reelway.dev/gateway"] == "true"
				}) {
					doors = append(doors, fmt.Sprintf("gateways > %s:%d", w.name, port))
				}
			}
			if egress(policies, w, 443, func(p networkingv1.NetworkPolicyPeer) bool {
				return p.IPBlock != nil && p.IPBlock.CIDR == "0.0.0.0/0" && slices.Contains(p.IPBlock.Except, "169.254.0.0/16") && slices.Contains(p.IPBlock.Except, "10.0.0.0/8")
			}) {
				doors = append(doors, w.name+" > internet:443")
			}
			if !egress(policies, w, 53, func(p networkingv1.NetworkPolicyPeer) bool {
				return p.NamespaceSelector != nil && p.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] == "kube-system"
			}) {
				t.Errorf("%s: %s cannot ask for names", overlay, w.name)
			}
		}
		if got, want := sorted(doors), sorted(slices.Clone(outward)); !slices.Equal(got, want) {
			t.Errorf("%s: the ways out and in are\n%q\nand should be\n%q", overlay, got, want)
		}
	}
}

func matches(s *metav1.LabelSelector, set map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(set))
}

// open says whether a connection is let out and in.
func open(policies []networkingv1.NetworkPolicy, from, to workload, port int32) bool {
	peer := func(other workload) func(networkingv1.NetworkPolicyPeer) bool {
		return func(p networkingv1.NetworkPolicyPeer) bool {
			return p.PodSelector != nil && p.NamespaceSelector == nil && matches(p.PodSelector, other.labels)
		}
	}
	return egress(policies, from, port, peer(to)) && ingress(policies, to, port, peer(from))
}

func egress(policies []networkingv1.NetworkPolicy, w workload, port int32, peer func(networkingv1.NetworkPolicyPeer) bool) bool {
	return allows(policies, networkingv1.PolicyTypeEgress, w, port, peer, func(p networkingv1.NetworkPolicy) (out []rule) {
		for _, r := range p.Spec.Egress {
			out = append(out, rule{r.To, r.Ports})
		}
		return out
	})
}

func ingress(policies []networkingv1.NetworkPolicy, w workload, port int32, peer func(networkingv1.NetworkPolicyPeer) bool) bool {
	return allows(policies, networkingv1.PolicyTypeIngress, w, port, peer, func(p networkingv1.NetworkPolicy) (out []rule) {
		for _, r := range p.Spec.Ingress {
			out = append(out, rule{r.From, r.Ports})
		}
		return out
	})
}

type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// allows follows the rules of Kubernetes: a pod that no policy of the direction
// selects is open, one that any selects is open where one of them says so.
func allows(policies []networkingv1.NetworkPolicy, direction networkingv1.PolicyType, w workload, port int32, peer func(networkingv1.NetworkPolicyPeer) bool, rules func(networkingv1.NetworkPolicy) []rule) bool {
	selected := false
	for _, p := range policies {
		if !slices.Contains(p.Spec.PolicyTypes, direction) || !matches(&p.Spec.PodSelector, w.labels) {
			continue
		}
		selected = true
		for _, r := range rules(p) {
			if len(r.peers) > 0 && !slices.ContainsFunc(r.peers, peer) {
				continue
			}
			if len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(n networkingv1.NetworkPolicyPort) bool { return n.Port == nil || n.Port.IntVal == port }) {
				return true
			}
		}
	}
	return !selected
}
