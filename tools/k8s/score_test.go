package k8s

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// exceptions are the rules of kube-score that are not kept by an object whose name
// contains object, and why.
var exceptions = []struct{ rule, object, why string }{
	{"container-image-pull-policy", "", "tags are not moved, and production may name digests: to pull at each start only adds a way to fail"},
	{"deployment-replicas", "", "the autoscaler says how many; development has one of each"},
	{"deployment-has-host-podantiaffinity", "", "pods are spread by topologySpreadConstraints, which do not stop at one a node"},
	{"deployment-strategy", "/simulator", "it has its tasks in memory: two of them would know half each"},
	{"networkpolicy-targets-pod", "/postgres", "its pods are made by the operator"},
}

// The policy linter has nothing to say but where there is a reason.
func TestPolicy(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		m := render(t, overlay)
		cmd := exec.Command(binary(t, "kube-score"), "score", "-o", "json", "--kubernetes-version", "v1.36",
			"--ignore-container-cpu-limit", // a limit of CPU slows down bursts; requests share it, and memory is limited
			"-")
		cmd.Stdin = bytes.NewReader(m.text)
		out, err := cmd.Output() // it fails where it finds something
		var objects []struct {
			Name   string `json:"object_name"`
			Checks []struct {
				Check    struct{ ID string }
				Grade    int
				Skipped  bool
				Comments []struct{ Path, Summary, Description string }
			}
		}
		if jerr := json.Unmarshal(out, &objects); jerr != nil || len(objects) == 0 {
			t.Fatalf("%v %v %s", err, jerr, out)
		}
		for _, o := range objects {
			for _, c := range o.Checks {
				excepted := slices.ContainsFunc(exceptions, func(e struct{ rule, object, why string }) bool {
					return e.rule == c.Check.ID && strings.Contains(o.Name, e.object)
				})
				if c.Skipped || c.Grade >= 10 || excepted {
					continue
				}
				var why []string
				for _, x := range c.Comments {
					why = append(why, x.Path+": "+x.Summary+" "+x.Description)
				}
				t.Errorf("%s: %s: %s (%d): %s", overlay, o.Name, c.Check.ID, c.Grade, strings.Join(why, "; "))
			}
		}
	}
}
