// Package sdk holds no code but tests: the providers' own client libraries,
// unchanged, against the simulator. What they accept is true of the providers.
package sdk

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"reelway.dev/services/simulator"
)

const (
	key    = "simulated-key"
	secret = "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0LWtleQ=="
)

// simulate starts the simulator with TLS: Google's SDKs read names of files
// from https addresses alone.
func simulate(t *testing.T) *httptest.Server {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: key, KlingAccess: key, KlingSecret: "a-secret-key-for-kling-of-32-bytes", WebhookSecret: secret, Key: key},
		simulator.Deps{Client: client, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(sim.Handler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	client.Transport = srv.Client().Transport // it fetches its own results, as sources
	t.Cleanup(func() { srv.CloseClientConnections(); sim.Close(); srv.Close() })
	return srv
}

// TestNode runs one script for each SDK of npm. A script prints what it saw.
func TestNode(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("node_modules/.package-lock.json"); err != nil {
		t.Fatal("the client libraries are not installed: run `make setup-test`")
	}
	for name, want := range map[string]string{
		"openai": `{"created":"queued","ended":"completed","progress":100,"seconds":"4","size":"1280x720","video":"ftyp",
			"moderated":["failed","moderation_blocked","4","720x1280"],"invalid":["BadRequestError",400,"invalid_value"],"absent":["NotFoundError",404],
			"unknown":["AuthenticationError",401,"invalid_api_key"],
			"remixed":["completed",true,"4","1280x720"],"edited":["completed",true,"4"],"extended":["completed",true,"12"],"unfinished":["BadRequestError",400],"webhook":"video.completed","ofTheVideo":true,"tampered":"InvalidWebhookSignatureError"}`,
		"replicate": `{"created":"starting","ended":"succeeded","waited":true,"video":"ftyp","run":"ftyp","edited":"ftyp","unfetched":["ApiError",422],
			"failed":"Prediction failed: The input or output was flagged as sensitive. Please try again with different inputs. (E005)","canceled":"canceled",
			"invalid":["ApiError",422,true],"unknown":["ApiError",401],"webhook":"succeeded","ofThePrediction":true,"verified":true,"tampered":false}`,
		"fal": `{"ended":"COMPLETED","known":true,"video":"ftyp","extended":"ftyp","edited":"ftyp","unfetched":[true,422],"refused":[true,422,"content_policy_violation"],"broken":[true,500,"runner_server_error"],
			"invalid":[true,422,1],"unknown":[true,401],"canceled":"COMPLETED","shortened":true,
			"webhook":"OK","ofTheRequest":true,"verified":true,"tampered":"refused"}`,
		"genai": `{"begun":false,"video":"ftyp","extended":"ftyp","lost":[true,404,"NOT_FOUND"],"filtered":[0,1,1],"error":13,"invalid":[true,400,"INVALID_ARGUMENT"],"unknown":[true,400,"INVALID_ARGUMENT"],
			"webhook":"video.generated","ofTheVideo":true,"metadata":"video_1","verified":true}`,
		"runway": `{"ended":"SUCCEEDED","cost":60,"video":"ftyp","failed":[true,"SAFETY.INPUT.TEXT",0],"estimated":[60,"PENDING",60],"canceled":"CANCELLED",
			"edited":["SUCCEEDED","ftyp"],"referred":["SUCCEEDED","ftyp"],"unfetched":[true,400],
			"invalid":[true,400],"absent":[true,404],"unknown":[true,401]}`,
		"luma": `{"created":"queued","ended":"completed","video":"ftyp","failed":["failed","Content moderation failed"],
			"extended":["completed","ftyp"],"modified":["completed","ftyp"],"lost":[true,404],"manner":[true,422],"invalid":[true,422],"absent":[true,404],
			"unknown":[true,401],"webhooks":["dreaming","completed"],"ofTheGeneration":true}`,
		"kling": `{"code":0,"webhooks":["processing","succeeded"],"ofTheTask":true,"tampered":"WebhookVerificationError"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, expected := run(t, name), decode(t, []byte(want))
			for field, v := range expected {
				if !reflect.DeepEqual(got[field], v) {
					t.Errorf("%s: %v, want %v", field, got[field], v)
				}
			}
			if len(got) != len(expected) {
				t.Errorf("%d fields, want %d: %v", len(got), len(expected), got)
			}
		})
	}
}

// run is what a script prints against a simulator of its own.
func run(t *testing.T, name string) map[string]any {
	t.Helper()
	srv, dir := simulate(t), t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", name+".mjs")
	cmd.Env = append(os.Environ(), "BASE="+srv.URL, "KEY="+key, "SECRET="+secret, "DIR="+dir, "NODE_EXTRA_CA_CERTS="+ca)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s%s", err, out, exit.Stderr)
		}
		t.Fatal(err)
	}
	return decode(t, out)
}

// callback is one that came, with its raw bytes.
type callback struct {
	header http.Header
	body   []byte
}

// receive starts a receiver of callbacks.
func receive(t *testing.T) (url string, came <-chan callback) {
	t.Helper()
	ch := make(chan callback, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		ch <- callback{r.Header.Clone(), body}
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/callbacks", ch
}

func next(t *testing.T, came <-chan callback) callback {
	t.Helper()
	select {
	case c := <-came:
		return c
	case <-time.After(time.Minute):
		t.Fatal("no callback in a minute")
		return callback{}
	}
}

func isVideo(data []byte) bool { return len(data) > 1000 && string(data[4:8]) == "ftyp" }

func decode(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return m
}
