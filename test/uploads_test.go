package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/storetest"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// picture is a PNG of at least so many bytes, and its hash; another shade is
// another file.
func picture(t *testing.T, shade byte, atLeast int) ([]byte, string) {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, 320, 180))
	img.SetGray(1, 1, color.Gray{Y: shade})
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	data := append(b.Bytes(), make([]byte, max(atLeast-b.Len(), 0))...) // what follows the end of a PNG is nobody's
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:])
}

type upload struct {
	ID, Object, Status, SHA256 string
	Bytes                      int64
	Width, Height              int
	ContentType                string `json:"content_type"`
	ExpiresAt                  int64  `json:"expires_at"`
	UploadURL                  string `json:"upload_url"`
	Method                     string
	Headers                    map[string]string
}

func (a answer) upload(t *testing.T) (u upload) {
	t.Helper()
	if a.status != http.StatusOK || json.Unmarshal(a.raw, &u) != nil || u.Object != "upload" {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	return u
}

// form is a multipart body: name and value in turn, where a value of bytes is a
// file.
func form(t *testing.T, parts ...any) (body, kind string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		name := fmt.Sprint(parts[i])
		var err error
		switch v := parts[i+1].(type) {
		case []byte:
			var p io.Writer
			if p, err = w.CreateFormFile(name, "claimed.txt"); err == nil {
				_, err = p.Write(v)
			}
		default:
			err = w.WriteField(name, fmt.Sprint(v))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

func (s *stack) post(path string, header []string, parts ...any) answer {
	s.t.Helper()
	body, kind := form(s.t, parts...)
	return s.call(http.MethodPost, path, body, append([]string{"Content-Type", kind}, header...)...)
}

// fetched is what the provider got of a job's files, by its own hashes.
func (s *stack) fetched(id string) (sums []string) {
	s.t.Helper()
	if v := s.await(90*time.Second, id); v.Status != "completed" {
		s.t.Errorf("%s is %s: %+v", id, v.Status, v.Error)
	}
	for _, task := range s.tasks(id) {
		for _, in := range task.Inputs {
			if in.Error != "" || strings.Contains(in.URL, "bucket:") {
				s.t.Errorf("%+v", in)
			}
			sums = append(sums, in.SHA256)
		}
	}
	return sums
}

// in is the stack in a part of its test.
func (s *stack) in(t *testing.T) *stack {
	part := *s
	part.t = t
	return &part
}

func (s *stack) wants(id string, want ...string) {
	s.t.Helper()
	if got := s.fetched(id); fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Errorf("the provider got %v, want %v", got, want)
	}
}

// A file comes to the provider byte for byte, whichever way it was uploaded, on
// every kind of bucket, and leaves the bucket with its job.
func TestUploads(t *testing.T) {
	t.Parallel()
	for name, bucket := range map[string]func(t *testing.T) (settings []string, objects func() int){
		"folder": func(t *testing.T) ([]string, func() int) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return []string{"REELWAY_BUCKET_URL=file://" + dir}, func() int {
				names, err := filepath.Glob(filepath.Join(dir, "uploads", "*", "*"))
				if err != nil {
					t.Fatal(err)
				}
				return len(slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, ".attrs") }))
			}
		},
		"s3": func(t *testing.T) ([]string, func() int) {
			x := storetest.NewS3(t)
			return []string{"REELWAY_BUCKET_URL=" + x.URL, "AWS_ACCESS_KEY_ID=" + storetest.AccessKey, "AWS_SECRET_ACCESS_KEY=" + storetest.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}, func() int { return x.Objects(t, "uploads/") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings, objects := bucket(t)
			s := setup(t, settings...)
			small, sum := picture(t, 1, 0)
			large, largeSum := picture(t, 2, 9<<20) // several parts on S3

			u := s.call(http.MethodPost, "/v1/uploads", string(small), "Content-Type", "image/jpeg").upload(t)
			if u.Status != "ready" || u.SHA256 != sum || u.Bytes != int64(len(small)) || u.ContentType != "image/png" || u.Width != 320 || u.Height != 180 || u.ExpiresAt < time.Now().Add(47*time.Hour).Unix() {
				t.Errorf("%+v", u)
			}
			u2 := s.post("/v1/uploads", nil, "purpose", "input_reference", "file", large).upload(t)
			if got := s.call(http.MethodGet, "/v1/uploads/"+u2.ID, nil).upload(t); got.SHA256 != largeSum || got.Status != "ready" {
				t.Errorf("%+v", got)
			}
			job := request("seedance-2.0", "A boat [fetch]")
			job["image_url"], job["end_image_url"] = u.ID, u2.ID
			a := s.call(http.MethodPost, "/v1/videos", job)
			if a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.raw)
			}

			// Straight to the bucket.
			p := s.call(http.MethodPost, "/v1/uploads", map[string]any{"bytes": len(large), "content_type": "image/png", "purpose": "input_reference"}).upload(t)
			if p.Status != "pending" || p.Method != http.MethodPut {
				t.Errorf("%+v", p)
			}
			early := s.call(http.MethodPost, "/v1/uploads/"+p.ID+"/complete", nil)
			if early.status != http.StatusConflict || early.fault.Code != "conflict" {
				t.Errorf("before it came: %d %s", early.status, early.raw)
			}
			pending := request("kling-v2-6", "p")
			pending["input_reference"] = map[string]any{"file_id": p.ID}
			if a := s.call(http.MethodPost, "/v1/videos", pending); a.status != http.StatusBadRequest {
				t.Errorf("with a pending upload: %d %s", a.status, a.raw)
			}
			if code := put(t, p, small); code < 400 {
				t.Errorf("another size: %d", code)
			}
			if code := put(t, p, large); code != http.StatusOK {
				t.Fatalf("the bucket answered %d", code)
			}
			for range 2 { // the second is told the same
				if done := s.call(http.MethodPost, "/v1/uploads/"+p.ID+"/complete", nil).upload(t); done.Status != "ready" || done.SHA256 != largeSum || done.Width != 320 {
					t.Errorf("%+v", done)
				}
			}
			job = request("kling-v2-6", "A boat [fetch]")
			job["input_reference"] = map[string]any{"file_id": p.ID}
			b := s.call(http.MethodPost, "/v1/videos", job)
			if b.status != http.StatusOK {
				t.Fatalf("%d %s", b.status, b.raw)
			}

			// What is not as was said.
			p = s.call(http.MethodPost, "/v1/uploads", map[string]any{"bytes": len(small), "content_type": "image/jpeg"}).upload(t)
			if code := put(t, p, small); code != http.StatusOK {
				t.Fatalf("the bucket answered %d", code)
			}
			if a := s.call(http.MethodPost, "/v1/uploads/"+p.ID+"/complete", nil); a.status != http.StatusBadRequest || !strings.Contains(a.fault.Message, "image/png, not image/jpeg") {
				t.Errorf("%d %s", a.status, a.raw)
			}

			s.wants(a.video.ID, sum, largeSum)
			s.wants(b.video.ID, largeSum)
			s.wants(s.post("/v1/videos", nil, "input_reference", large, "prompt", "A boat [fetch]", "model", "seedance-2.0", "end_image", small).video.ID, largeSum, sum)
			for _, id := range []string{u.ID, u2.ID} {
				if a := s.call(http.MethodDelete, "/v1/uploads/"+id, nil); a.status != http.StatusOK {
					t.Errorf("%d %s", a.status, a.raw)
				}
				if a := s.call(http.MethodGet, "/v1/uploads/"+id, nil); a.status != http.StatusNotFound {
					t.Errorf("%d %s", a.status, a.raw)
				}
			}
			// The two that were begun by a link wait for its end.
			s.eventually(60*time.Second, "only what strangers may still write is left", func() bool { return objects() == 2 })
			s.books(-1)
		})
	}
}

// put sends a file as its upload says.
func put(t *testing.T, u upload, data []byte) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), u.Method, u.UploadURL, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range u.Headers {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// A request with files is refused as early as can be, and leaves none behind.
func TestFilesAreRefused(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_UPLOAD_MAX_BYTES=200000", "REELWAY_UPLOAD_MAX_VIDEO_BYTES=300000", "REELWAY_DEV_CREDITS=1")
	good, sum := picture(t, 1, 0)
	large, _ := picture(t, 1, 200_001)
	movie := append([]byte("\x00\x00\x00\x18ftypisom\x00\x00\x02\x00"), make([]byte, 300_000)...)
	for name, c := range map[string]struct {
		path   string
		parts  []any
		status int
		says   string
	}{
		"large image":    {"/v1/videos", []any{"prompt", "p", "input_reference", large}, 413, "200000 bytes"},
		"large body":     {"/v1/videos", []any{"prompt", "p", "input_reference", make([]byte, 2_000_000)}, 413, "bytes"},
		"large video":    {"/v1/uploads", []any{"file", movie}, 413, "300000 bytes"},
		"no image":       {"/v1/videos", []any{"prompt", "p", "input_reference", []byte("hello")}, 400, "is not a JPEG"},
		"a video":        {"/v1/videos", []any{"prompt", "p", "input_reference", movie[:200]}, 400, "an image is wanted"},
		"empty":          {"/v1/uploads", []any{"file", []byte{}}, 400, "is empty"},
		"no file":        {"/v1/uploads", []any{"purpose", "input_reference"}, 400, "file: is missing"},
		"other part":     {"/v1/videos", []any{"prompt", "p", "thumbnail", good}, 400, "files are input_reference, image, end_image and video"},
		"twice":          {"/v1/videos", []any{"input_reference", good, "input_reference", good, "prompt", "p"}, 400, "is there twice"},
		"both":           {"/v1/videos", []any{"image", good, "input_reference[image_url]", "https://e.example/a.png", "prompt", "p"}, 400, "contradicts input_reference"},
		"quote":          {"/v1/videos:quote", []any{"prompt", "p", "input_reference", good}, 400, "a quote does not take"},
		"bad field":      {"/v1/videos", []any{"input_reference", good, "prompt", "p", "model", "kling-v2-6", "seconds", "7"}, 400, "duration"},
		"little credit":  {"/v1/videos", []any{"input_reference", good, "prompt", "p", "model", "seedance-2.0", "seconds", "12"}, 402, "credits"},
		"many fields":    {"/v1/videos", []any{"prompt", strings.Repeat("p", 1<<20+1), "input_reference", good}, 413, "1 MiB"},
		"bad key":        {"/v1/videos", []any{"prompt", "p", "input_reference", good}, 400, "Idempotency-Key"},
		"wrong purpose":  {"/v1/uploads", nil, 400, "purpose"},
		"unknown upload": {"/v1/videos", []any{"prompt", "p", "model", "kling-v2-6", "image_url", "upload_1"}, 400, "there is no upload upload_1"},
		"a reference":    {"/v1/videos", []any{"prompt", "p", "model", "kling-v2-6", "image_url", "bucket:videos/a"}, 400, "image_url"},
		"strange file":   {"/v1/videos", []any{"prompt", "p", "model", "kling-v2-6", "input_reference[file_id]", "https://e.example/a.png"}, 400, "file_id"},
	} {
		var a answer
		switch name {
		case "bad key":
			a = s.post(c.path, []string{"Idempotency-Key", strings.Repeat("k", 256)}, c.parts...)
		case "wrong purpose":
			a = s.call(http.MethodPost, c.path, map[string]any{"bytes": 1, "content_type": "image/png", "purpose": "x"})
		default:
			a = s.post(c.path, nil, c.parts...)
		}
		if a.status != c.status || !strings.Contains(a.fault.Message, c.says) {
			t.Errorf("%s: %d %s, want %d and %q", name, a.status, a.raw, c.status, c.says)
		}
	}
	for name, body := range map[string]map[string]any{
		"content_type bytes": {"bytes": 0, "content_type": "image/gif"}, "bytes": {"bytes": 200_001, "content_type": "image/png"},
	} {
		a := s.call(http.MethodPost, "/v1/uploads", body)
		var fields []string
		for _, f := range a.fault.Fields {
			fields = append(fields, f.Name)
		}
		if strings.Join(fields, " ") != name {
			t.Errorf("%v: %d %s", body, a.status, a.raw)
		}
	}
	// Without a right to write not a byte is read.
	for name, auth := range map[string]string{"no key": "", "wrong key": "Bearer nope"} {
		r, w := io.Pipe() // never written to
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+"/v1/uploads", r)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true // otherwise the server would wait for the body before it answers
		req.Header.Set("Authorization", auth)
		req.Header.Set("Content-Type", "image/png")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = resp.Body.Close(), w.Close(), r.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	s.eventually(60*time.Second, "nothing is left of what was refused", func() bool {
		var rows int
		s.sql("select (select count(*) from upload) + (select count(*) from artifact_deletion)", &rows)
		names, err := filepath.Glob(filepath.Join(s.dir, "data/bucket/uploads/*/*.*"))
		return err == nil && len(names) == 0 && rows == 0
	})
	s.books(1_000_000)
	u := s.call(http.MethodPost, "/v1/uploads", string(good), "Content-Type", "application/octet-stream").upload(t)
	if u.SHA256 != sum {
		t.Errorf("%+v", u)
	}
	q := request("kling-v2-6", "p")
	q["image_url"] = u.ID
	if a := s.call(http.MethodPost, "/v1/videos:quote", q); a.status != http.StatusOK {
		t.Errorf("a quote with an upload: %d %s", a.status, a.raw)
	}
}

// The same key with the same file is the same video; with another it is a
// conflict. Neither leaves a file.
func TestAFileIsPartOfItsRequest(t *testing.T) {
	t.Parallel()
	s := setup(t)
	one, sum := picture(t, 1, 0)
	two, _ := picture(t, 2, 0)
	once := []string{"Idempotency-Key", "order 7"}
	first := s.post("/v1/videos", once, "prompt", "A boat [fetch]", "model", "kling-v2-6", "input_reference", one)
	again := s.post("/v1/videos", once, "input_reference", one, "model", "kling-v2-6", "prompt", "A boat [fetch]")
	other := s.post("/v1/videos", once, "prompt", "A boat [fetch]", "model", "kling-v2-6", "input_reference", two)
	if first.status != http.StatusOK || again.video.ID != first.video.ID || other.status != http.StatusConflict {
		t.Errorf("%d %s, %d %s, %d %s", first.status, first.raw, again.status, again.raw, other.status, other.raw)
	}
	s.wants(first.video.ID, sum)
	u := s.call(http.MethodPost, "/v1/uploads", string(one), "Content-Type", "image/png").upload(t)
	if by := s.post("/v1/videos", once, "prompt", "A boat [fetch]", "model", "kling-v2-6", "input_reference[file_id]", u.ID); by.video.ID != first.video.ID {
		t.Errorf("by an upload: %d %s", by.status, by.raw)
	}
	s.eventually(60*time.Second, "the upload alone is left", func() bool {
		names, err := filepath.Glob(filepath.Join(s.dir, "data/bucket/uploads/*/*.png"))
		return err == nil && len(names) == 1 && strings.Contains(names[0], u.ID)
	})
}

// A request that names uploads is sent again when they are gone: it is answered
// with its video, and nothing else is.
func TestAReplayOutlivesItsUploads(t *testing.T) {
	t.Parallel()
	s := setup(t)
	one, _ := picture(t, 1, 0)
	two, sum := picture(t, 2, 0)
	take := func(data []byte) string {
		return s.call(http.MethodPost, "/v1/uploads", string(data), "Content-Type", "image/png").upload(t).ID
	}
	first, last := take(one), take(two)
	body := request("kling-v2-6", "A boat [fetch]")
	body["image_url"] = last
	send := func(body map[string]any, key string) answer {
		return s.call(http.MethodPost, "/v1/videos", body, "Idempotency-Key", key)
	}
	mixed := func(key string, end []byte) answer { // one by its id, the other as a file
		return s.post("/v1/videos", []string{"Idempotency-Key", key}, "prompt", "A boat", "model", "seedance-2.0", "image_url", first, "end_image", end)
	}
	named, both := send(body, "named"), mixed("both", two)
	if named.status != http.StatusOK || both.status != http.StatusOK {
		t.Fatalf("%d %s, %d %s", named.status, named.raw, both.status, both.raw)
	}
	s.wants(named.video.ID, sum)
	s.await(90*time.Second, both.video.ID)
	for _, u := range []string{first, last} {
		if a := s.call(http.MethodDelete, "/v1/uploads/"+u, nil); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.raw)
		}
	}
	s.eventually(60*time.Second, "the ledger knows nothing of them", func() bool {
		var rows int
		s.sql("select count(*) from upload", &rows)
		return rows == 0
	})
	var before, after int
	s.sql("select count(*) from job", &before)
	if again := send(body, "named"); again.video.ID != named.video.ID || again.video.Status != "completed" {
		t.Errorf("%d %s", again.status, again.raw)
	}
	if again := mixed("both", two); again.video.ID != both.video.ID {
		t.Errorf("%d %s", again.status, again.raw)
	}
	other := request("kling-v2-6", "Another boat [fetch]")
	other["image_url"] = last
	for what, a := range map[string]answer{"a new key": send(body, "new"), "no key": send(body, ""), "another request": send(other, "named"),
		"another upload": mixed("named", two), "another file": mixed("both", one)} {
		if a.status != http.StatusBadRequest || !strings.Contains(a.fault.Message, "there is no upload") {
			t.Errorf("%s: %d %s", what, a.status, a.raw)
		}
	}
	if s.sql("select count(*) from job", &after); after != before {
		t.Errorf("%d jobs were made", after-before)
	}
	s.books(-1)
}

// A file is there for a second attempt, and after a restart.
func TestAFileWaitsForItsJob(t *testing.T) {
	t.Parallel()
	s := setup(t)
	data, sum := picture(t, 1, 0)
	v := s.post("/v1/videos", nil, "prompt", "A boat [fetch] [fault:rate_limit:2]", "model", "kling-v2-6", "input_reference", data).video
	s.stop(9)
	s.start()
	s.wants(v.ID, sum)
}

func TestUploadsOverGRPC(t *testing.T) {
	t.Parallel()
	s := setup(t)
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	c, videos := videov1.NewUploadServiceClient(conn), videov1.NewVideoServiceClient(conn)
	data, sum := picture(t, 1, 0)
	p, err := c.CreateUpload(ctx, &videov1.CreateUploadRequest{ContentType: "image/png", SizeBytes: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	if code := put(t, upload{Method: http.MethodPut, UploadURL: p.GetUploadUrl(), Headers: p.GetHeaders()}, data); code != http.StatusOK {
		t.Fatal(code)
	}
	name := p.GetUpload().GetId()
	if u, err := c.CompleteUpload(ctx, &videov1.CompleteUploadRequest{Id: name}); err != nil || u.GetUpload().GetSha256() != sum {
		t.Fatalf("%v %v", u, err)
	}
	v, err := videos.CreateVideo(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "A boat [fetch]", ImageUrl: name}})
	if err != nil {
		t.Fatal(err)
	}
	s.wants(v.GetVideo().GetId(), sum)
	if _, err := c.DeleteUpload(ctx, &videov1.DeleteUploadRequest{Id: name}); err != nil {
		t.Error(err)
	}
	if _, err := c.GetUpload(ctx, &videov1.GetUploadRequest{Id: name}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if _, err := videos.CreateVideo(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p", ImageUrl: "bucket:videos/a"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a reference to the bucket: %v", err)
	}
}

// OpenAI's own SDKs send a file, or an object, in a form.
func TestOpenAISDKsUpload(t *testing.T) {
	t.Parallel()
	s := setup(t)
	data, sum := picture(t, 1, 0)
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := openai.NewClient(option.WithBaseURL(s.base+"/v1"), option.WithAPIKey(key))
		v, err := c.Videos.New(ctx, openai.VideoNewParams{Model: "kling-v2-6", Prompt: "A boat [fetch]", Seconds: "5",
			InputReference: openai.VideoNewParamsInputReferenceUnion{OfFile: bytes.NewReader(data)}})
		if err != nil {
			t.Fatal(err)
		}
		s.wants(v.ID, sum)
		u := s.call(http.MethodPost, "/v1/uploads", string(data), "Content-Type", "image/png").upload(t)
		v, err = c.Videos.New(ctx, openai.VideoNewParams{Model: "kling-v2-6", Prompt: "A boat [fetch]", Seconds: "5",
			InputReference: openai.VideoNewParamsInputReferenceUnion{OfImageInputReference: &openai.ImageInputReferenceParam{FileID: openai.String(u.ID)}}})
		if err != nil {
			t.Fatal(err)
		}
		s.wants(v.ID, sum)
		_, err = c.Videos.New(ctx, openai.VideoNewParams{Model: "kling-v2-6", Prompt: "p", InputReference: openai.VideoNewParamsInputReferenceUnion{OfFile: strings.NewReader("no image")}})
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "input_reference" {
			t.Error(err)
		}
	})
	t.Run("js", func(t *testing.T) {
		t.Parallel()
		s := s.in(t)
		if _, err := os.Stat("sdk/node_modules/.package-lock.json"); err != nil {
			t.Fatal("the client libraries are not installed: run `make setup-test`")
		}
		file := filepath.Join(t.TempDir(), "boat.png")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "node", "upload.mjs")
		cmd.Dir, cmd.Stderr = "sdk", os.Stderr
		cmd.Env = append(os.Environ(), "BASE="+s.base, "KEY="+key, "FILE="+file)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var got struct {
			Video, ByID string
			Refused     []any
		}
		if err := json.Unmarshal(out, &got); err != nil || fmt.Sprint(got.Refused) != "[BadRequestError 400 input_reference]" {
			t.Fatalf("%s %v", out, err)
		}
		s.wants(got.Video, sum)
		s.wants(got.ByID, sum)
	})
}
