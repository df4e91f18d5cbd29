package providertest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// Admin is the Simulator at the other end of its /admin doors.
type Admin struct {
	URL string // of the simulator, without a path
}

var _ Simulator = Admin{}

// Tasks implements Simulator.
func (a Admin) Tasks(t T, prompt string) []Accepted {
	t.Helper()
	var out struct{ Tasks []Accepted }
	a.call(t, http.MethodGet, "/admin/tasks?prompt="+url.QueryEscape(prompt), "", &out)
	return out.Tasks
}

// Move implements Simulator.
func (a Admin) Move(t T, taskID, state string) {
	t.Helper()
	a.call(t, http.MethodPost, "/admin/tasks/"+url.PathEscape(taskID), `{"state":"`+state+`"}`, nil)
}

func (a Admin) call(t T, method, path, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, a.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: status %d", method, path, resp.StatusCode)
	}
	if into != nil {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
}
