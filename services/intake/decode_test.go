package intake

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"reelway.dev/pkg/fault"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"prompt":"p","seconds":"5","size":"1280x720"}`:       "",
		`{"prompt":"p","duration":5,"max_cost":0.5}`:           "",
		`{"prompt":"p","durations":5}`:                         "durations: is not a field of this request",
		`{"prompt":"p","Prompt":"q"}`:                          "Prompt: is not a field of this request; did you mean prompt?",
		`{"prompt":"p","prompt":"q"}`:                          "prompt: is there twice",
		`{"prompt":5,"seed":"x","bogus":1,"duration":"long"}`:  "prompt: must be a string; duration: must be a number; seed: must be a whole number; bogus: is not a field of this request",
		`{"metadata":{"a":{}},"input_reference":{"file":"x"}}`: "input_reference.file: is not a field of this request; metadata.a: must be a string",
		`{"prompt":5}`: "prompt: must be a string",
		`{"prompt":"p","video":{"id":"video_1"},"extend":true}`: "",
		`{"prompt":"p","video":{"id":""}}`:                      "video: must hold the id of a video",
		`{"prompt":"p","video":"video_1","extend":"yes"}`:       "video: must be an object; extend: must be true or false",
		`{"prompt":"p","seed":"x"}`:                             "seed: must be a whole number",
		`{"prompt":"p","audio":"x"}`:                            "audio: must be true or false",
		`{"prompt":"p","duration":"long"}`:                      "duration: must be a number",
		`{"prompt":"p","duration":-1,"max_cost":-1}`:            "duration: must be a whole number of seconds above 0; max_cost: must be credits above 0 with at most 6 decimals",
		`{"prompt":"p","duration":5,"seconds":"10"}`:            "duration: 5 contradicts seconds, which says 10",
		`{"prompt":`:            "body: is not valid JSON at byte 10",
		`[]`:                    "body: must be a JSON object",
		strings.Repeat(`[`, 40): "body: is nested too deeply",
		"{\"prompt\":\"\xff\"}": "body: is not valid JSON at byte 11",
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/videos", strings.NewReader(in))
		r.Header.Set("Content-Type", "application/json")
		_, bad, err := decode(httptest.NewRecorder(), r, nil)
		if err == nil && len(bad) > 0 {
			err = invalid(bad)
		}
		got := ""
		if err != nil {
			got = fault.From(err).Message
		}
		if got != want {
			t.Errorf("%.40s: %q, want %q", in, got, want)
		}
	}
}

func TestDecodeMultipart(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for k, v := range map[string]string{"prompt": "p", "model": "kling-v2-6", "seconds": "5", "size": "1280x720", "audio": "true", "metadata[a]": "b", "input_reference[image_url]": "https://e.example/x.png",
		"video[id]": "video_1", "extend": "true"} {
		if err := w.WriteField(k, v); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	r := httptest.NewRequest(http.MethodPost, "/v1/videos", &buf)
	r.Header.Set("Content-Type", w.FormDataContentType())
	v, bad, err := decode(httptest.NewRecorder(), r, nil)
	if err != nil || len(bad) > 0 || v.GetPrompt() != "p" || v.GetDurationSeconds() != 5 || !v.GetAudio() || v.GetMetadata()["a"] != "b" || v.GetImageUrl() != "https://e.example/x.png" ||
		v.GetSourceVideo() != "video_1" || !v.GetExtend() {
		t.Errorf("%v, %v", v, err)
	}
}

func TestLargeBodiesAreRefusedWithAdvice(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "/v1/videos", strings.NewReader(`{"prompt":"`+strings.Repeat("x", MaxBody)+`"}`))
	r.ContentLength = -1 // chunked
	_, _, err := decode(httptest.NewRecorder(), r, nil)
	if f := fault.From(err); f.Code != fault.PayloadTooLarge || !strings.Contains(f.Message, "https URL") {
		t.Error(f)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("application/json", []byte(`{"prompt":"p","seconds":"5"}`))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\np\r\n--x--"))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		r := httptest.NewRequest(http.MethodPost, "/v1/videos", bytes.NewReader(data))
		r.Header.Set("Content-Type", kind)
		if _, _, err := decode(httptest.NewRecorder(), r, nil); err != nil && fault.From(err).Code.HTTPStatus()/100 != 4 {
			t.Fatalf("not a 4xx: %v", err)
		}
	})
}
