package test

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
)

// The doctor looks at all of NATS as a user of its own, which may change and read
// nothing, on the cluster that is delivered.
func TestDoctorAtNATS(t *testing.T) {
	t.Parallel()
	cluster := startNATS(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "doctor", "--json")
	cmd.Env = []string{"REELWAY_NATS_URL=" + cluster.url("doctor"), "REELWAY_NATS_CA=" + cluster.ca, "REELWAY_NATS_REPLICAS=3", "REELWAY_DATA_DIR=" + t.TempDir()}
	out, _ := cmd.Output() // other neighbours are not there
	var found struct {
		Checks []struct{ Name, Verdict, Detail string }
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	streams := 0
	for _, c := range found.Checks {
		if !strings.HasPrefix(c.Name, "nats") {
			continue
		}
		if c.Verdict == "fail" {
			t.Errorf("%+v", c)
		}
		if c.Name == "nats."+bus.StreamDead || c.Name == "nats.JOBS" {
			streams++
		}
	}
	if streams != 2 {
		t.Errorf("%s", out)
	}
	if refused := cluster.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}
}
