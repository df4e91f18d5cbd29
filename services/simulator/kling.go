package simulator

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// kling is Kling in both generations. Source of the shapes: klingai.com
// document-api.
func kling() *dialect {
	show := func(t Task, host string) any { return klingAnswer(0, "SUCCEED", t.klingTask(host)) }
	one := func(t Task, host string) any { return klingAnswer(0, "", t.klingNew(host)) }
	list := func(t Task, host string) any { return klingAnswer(0, "", []any{t.klingNew(host)}) }
	return &dialect{
		name: "kling", calls: []string{"running", "succeeded", "failed"},
		key: klingKey, own: func(c Config) string { return c.KlingAccess },
		refuse: func(k refusal, detail string) (int, any) {
			row := map[refusal][2]int{unauthorized: {401, 1002}, invalid: {400, 1201}, notFound: {404, 1203}, policy: {400, 1301}, noBalance: {429, 1102},
				rateLimited: {429, 1303}, broken: {500, 5000}}[k]
			if k == rateLimited {
				detail = "parallel task over resource pack limit"
			}
			return row[0], klingAnswer(row[1], detail, nil)
		},
		routes: []route{
			{"POST", "/v1/videos/{kind}", submits(http.StatusOK, klingRead, show)},
			{"GET", "/v1/videos/{kind}/{id}", func(s *Service, d *dialect) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					switch t, ok := s.asked(d, w, r, nil); {
					case ok && t.kind != r.PathValue("kind"):
						d.deny(w, notFound, "no such task")
					case ok:
						answer(w, http.StatusOK, show(t, host(r)))
					}
				}
			}},
			{"POST", "/text-to-video/{model}", submits(http.StatusOK, klingReadNew, one)},
			{"POST", "/image-to-video/{model}", submits(http.StatusOK, klingReadNew, one)},
			{"GET", "/tasks", shows(list, func(r *http.Request) string {
				return r.URL.Query().Get("task_ids") + r.URL.Query().Get("external_task_ids") // one of the two
			})},
		},
		webhook: func(s *Service, t Task, host string) ([]byte, http.Header) {
			body := t.payload(t.klingTask(host))
			if t.kind == "new" {
				body = t.payload(t.klingNew(host))
			}
			return body, s.standard(t, body)
		},
	}
}

func klingAnswer(code int, message string, data any) map[string]any {
	m := map[string]any{"code": code, "message": message, "request_id": "sim"}
	if data != nil {
		m["data"] = data
	}
	return m
}

// klingKey is the issuer of a JWT, or the plain key, which alone the new
// generation takes. Every access key has the one secret of the settings.
func klingKey(s *Service, r *http.Request) string {
	shown := bearer(s, r)
	if strings.Count(shown, ".") != 2 || !strings.HasPrefix(r.URL.Path, "/kling/v1/") {
		return shown
	}
	token, err := jwt.Parse(shown, func(*jwt.Token) (any, error) { return []byte(s.cfg.KlingSecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	if err != nil {
		return ""
	}
	issuer, _ := token.Claims.GetIssuer()
	return issuer
}

func klingRead(r *http.Request) (*Task, *refused) {
	kind := r.PathValue("kind")
	var in struct {
		Model       string `json:"model_name"`
		Prompt      string
		Mode        string
		Duration    string
		AspectRatio string `json:"aspect_ratio"`
		Image       string
		ImageTail   string `json:"image_tail"`
		CallbackURL string `json:"callback_url"`
		ExternalID  string `json:"external_task_id"`
		VideoID     string `json:"video_id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON"}
	}
	if kind == "video-extend" {
		source, ok := strings.CutPrefix(in.VideoID, klingVideo)
		if !ok || in.ExternalID != "" {
			return nil, &refused{invalid, "video_id is needed, and external_task_id is not known"}
		}
		t := &Task{Prompt: in.Prompt, kind: kind, seconds: 5, callback: in.CallbackURL}
		return t.of(source, ""), nil
	}
	seconds, err := strconv.Atoi(in.Duration)
	switch {
	case kind != "text2video" && kind != "image2video":
		return nil, &refused{notFound, "no such resource"}
	case err != nil, in.Model == "", kind == "image2video" && in.Image == "":
		return nil, &refused{invalid, "model_name, duration and, for image2video, image are needed"}
	}
	t := &Task{Prompt: in.Prompt, ExternalID: in.ExternalID, kind: kind, model: in.Model, seconds: seconds, callback: in.CallbackURL, Inputs: inputs(in.Image, in.ImageTail)}
	t.width, t.height = pixels(map[string]string{"pro": "1080p"}[in.Mode], in.AspectRatio)
	return t, nil
}

func klingReadNew(r *http.Request) (*Task, *refused) {
	var in struct {
		Prompt   string
		Contents []struct{ Type, Text, URL string }
		Settings struct {
			Resolution  string
			AspectRatio string `json:"aspect_ratio"`
			Duration    int
		}
		Options struct {
			CallbackURL string `json:"callback_url"`
			ExternalID  string `json:"external_task_id"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON"}
	}
	var frames []string
	for _, c := range in.Contents {
		switch c.Type {
		case "prompt":
			in.Prompt = c.Text
		case "first_frame", "last_frame":
			frames = append(frames, c.URL)
		}
	}
	if in.Settings.Duration < 3 || in.Settings.Duration > 15 || in.Prompt == "" || strings.Contains(r.URL.Path, "/image-to-video/") && len(frames) == 0 {
		return nil, &refused{invalid, "a prompt, a duration of 3 to 15 and, for image-to-video, a frame are needed"}
	}
	t := &Task{Prompt: in.Prompt, kind: "new", ExternalID: in.Options.ExternalID, model: r.PathValue("model"), seconds: in.Settings.Duration, callback: in.Options.CallbackURL, Inputs: inputs(frames...)}
	t.width, t.height = pixels(in.Settings.Resolution, in.Settings.AspectRatio)
	return t, nil
}

// klingVideo begins the id of a video, which is not its task's.
const klingVideo = "clip-"

var klingWords = map[string]string{"queued": "submitted", "running": "processing", "succeeded": "succeed", "failed": "failed"}

func (t *Task) klingTask(host string) map[string]any {
	m := map[string]any{"task_id": t.ID, "task_status": t.word(klingWords),
		"task_info": map[string]any{"external_task_id": t.ExternalID}, "created_at": t.Created.UnixMilli(), "updated_at": t.Created.UnixMilli()}
	switch t.State {
	case "succeeded":
		m["task_result"] = map[string]any{"videos": t.klingVideos(host)}
	case "failed":
		m["task_status_msg"] = "the render stopped half-way"
	}
	return m
}

func (t *Task) klingNew(host string) map[string]any {
	m := map[string]any{"id": t.ID, "status": strings.Replace(t.word(klingWords), "succeed", "succeeded", 1), "external_id": t.ExternalID,
		"message": "", "create_time": t.Created.UnixMilli(), "update_time": t.Created.UnixMilli(), "outputs": []any{}}
	switch t.State {
	case "succeeded":
		m["outputs"] = t.klingVideos(host)
	case "failed":
		m["message"] = "the render stopped half-way"
	}
	return m
}

func (t *Task) klingVideos(host string) []any {
	u := t.result(host)
	if u == "" {
		return []any{}
	}
	v := map[string]any{"id": klingVideo + t.ID, "url": u, "duration": strconv.Itoa(t.seconds)}
	if t.kind == "new" {
		v["type"] = "video"
	}
	return []any{v}
}
