package intake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Store is where files are put; bucket.Bucket is one.
type Store interface {
	Writer(ctx context.Context, key, contentType string) (io.WriteCloser, error)
	Reader(ctx context.Context, key string) (io.ReadCloser, int64, error)
	SignPut(ctx context.Context, key, contentType string, size int64, life time.Duration) (bucket.Put, error)
}

// putLife is how long a file may be sent straight to the bucket.
const putLife = 15 * time.Minute

var uploadID = regexp.MustCompile(`^` + id.Upload + `_[A-Za-z0-9-]{1,57}$`)

// fileFields are the fields of a request that name a file: an address, or an
// upload. image says that it must be one.
var fileFields = []struct {
	name  string
	image bool
	at    func(*videov1.VideoRequest) *string
}{
	{"image_url", true, func(r *videov1.VideoRequest) *string { return &r.ImageUrl }},
	{"end_image_url", true, func(r *videov1.VideoRequest) *string { return &r.EndImageUrl }},
	{"video_url", false, func(r *videov1.VideoRequest) *string { return &r.VideoUrl }},
}

// filled is a request whose uploads were looked up.
type filled struct {
	request  *videov1.VideoRequest // names them as the dispatcher signs them
	identity *videov1.VideoRequest // names their content: what makes it the same request
	named    *videov1.VideoRequest // names them as its caller does, whether or not they are there; nil where he names none
	uploads  []string
	gone     []fault.Field // uploads that are not there, or not any more
}

// fill looks up the uploads that r names, and names what is wrong with them. own
// are those that came with the request, which its caller cannot name again. r
// itself is not changed.
func (s *Service) fill(ctx context.Context, p auth.Principal, r *videov1.VideoRequest, own []string) (filled, []fault.Field, error) {
	out := filled{request: r, identity: r}
	var bad []fault.Field
	var named bool
	var asked *videov1.VideoRequest
	for _, f := range fileFields {
		name := *f.at(r)
		if _, ok := bucket.RefKey(name); ok {
			bad = append(bad, fault.Field{Name: f.name, Message: "must be an https URL or the id of an upload"})
		}
		if !strings.HasPrefix(name, id.Upload+"_") {
			continue
		}
		if asked == nil {
			asked = proto.CloneOf(r)
		}
		brought := slices.Contains(own, name)
		named = named || !brought
		found, err := s.findUpload(ctx, p, name)
		switch {
		case fault.From(err) != nil && fault.From(err).Code == fault.NotFound:
			out.gone = append(out.gone, fault.Field{Name: f.name, Message: fmt.Sprintf("there is no upload %.64s; it may have expired", name)})
			continue
		case err != nil:
			return out, nil, err
		case found.GetUpload().GetState() != videov1.UploadState_UPLOAD_STATE_READY:
			bad = append(bad, fault.Field{Name: f.name, Message: name + " is not completed"})
			continue
		case f.image != strings.HasPrefix(found.GetUpload().GetContentType(), "image/"):
			bad = append(bad, fault.Field{Name: f.name, Message: fmt.Sprintf("%s is %s", name, found.GetUpload().GetContentType())})
			continue
		}
		if len(out.uploads) == 0 {
			out.request, out.identity = proto.CloneOf(r), proto.CloneOf(r)
		}
		out.uploads = append(out.uploads, name)
		*f.at(out.request) = bucket.Ref(found.GetKey())
		*f.at(out.identity) = "sha256:" + found.GetUpload().GetSha256()
		if brought {
			*f.at(asked) = *f.at(out.identity)
		}
	}
	if named {
		out.named = asked
	}
	return out, bad, nil
}

func (s *Service) findUpload(ctx context.Context, p auth.Principal, upload string) (*ledgerv1.FindUploadResponse, error) {
	if !uploadID.MatchString(upload) {
		return nil, noUpload()
	}
	found, err := s.d.Uploads.FindUpload(ctx, &ledgerv1.FindUploadRequest{AccountId: p.AccountID, Id: upload})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return found, nil
}

func noUpload() error { return fault.New(fault.NotFound, "no such upload") }

func uploadKey(account, upload, ext string) string {
	return "uploads/" + account + "/" + upload + ext
}

// largest is how many bytes a medium may have.
func (s *Service) largest(m medium) int64 {
	if m.image() {
		return s.cfg.UploadMaxBytes
	}
	return s.cfg.UploadMaxVideoBytes
}

func (s *Service) oversize(field string, m medium) error {
	what := "videos"
	if m.image() {
		what = "images"
	}
	e := fault.New(fault.PayloadTooLarge, "%s is larger than %d bytes, the most for %s", field, s.largest(m), what)
	e.Fields = []fault.Field{{Name: field, Message: fmt.Sprintf("must have at most %d bytes", s.largest(m))}}
	return e
}

// examine reads a file to its end: what it is, and into w, once that is known,
// all of it. open is called between, and may refuse.
func (s *Service) examine(field string, r io.Reader, open func(medium) (io.Writer, error)) (m medium, size int64, sum []byte, err error) {
	head, err := io.ReadAll(io.LimitReader(r, headBytes))
	if err != nil {
		return m, 0, nil, unread(field, err)
	}
	if len(head) == 0 {
		return m, 0, nil, invalid([]fault.Field{{Name: field, Message: "is empty"}})
	}
	if m, err = look(head, len(head) < headBytes); err != nil {
		return m, 0, nil, invalid([]fault.Field{{Name: field, Message: err.Error()}})
	}
	w, err := open(m)
	if err != nil {
		return m, 0, nil, err
	}
	limit, hash := s.largest(m), sha256.New()
	kept := &written{w: w}
	size, err = io.Copy(io.MultiWriter(kept, hash), io.MultiReader(bytes.NewReader(head), io.LimitReader(r, max(limit+1-int64(len(head)), 0))))
	switch {
	case kept.err != nil:
		return m, 0, nil, fault.Wrap(kept.err, fault.Unavailable, "the file could not be stored; try again")
	case err != nil:
		return m, 0, nil, unread(field, err)
	case size > limit:
		return m, 0, nil, s.oversize(field, m)
	}
	return m, size, hash.Sum(nil), nil
}

// written tells a failure to write from one to read.
type written struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (w *written) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.err = err
	return n, err
}

// unread says why a body could not be read to its end.
func unread(field string, err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return fault.New(fault.PayloadTooLarge, "the body is larger than %d bytes", large.Limit)
	}
	return invalid([]fault.Field{{Name: field, Message: "ended before it was complete"}})
}

// take stores a file as an upload of p's account. The ledger knows of it before
// its first byte is written: whatever dies, nothing is left in the bucket.
func (s *Service) take(ctx context.Context, p auth.Principal, field string, onlyImages bool, r io.Reader) (*videov1.Upload, error) {
	done, err := s.places.take(ctx, p.AccountID)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UploadTimeout)
	defer cancel()
	wctx, abandon := context.WithCancel(ctx)
	defer abandon()
	upload := id.New(id.Upload)
	var w io.WriteCloser
	begun := false
	m, size, sum, err := s.examine(field, r, func(m medium) (io.Writer, error) {
		if onlyImages && !m.image() {
			return nil, invalid([]fault.Field{{Name: field, Message: "is a video; an image is wanted here"}})
		}
		key := uploadKey(p.AccountID, upload, m.ext)
		if _, err := s.d.Uploads.BeginUpload(ctx, &ledgerv1.BeginUploadRequest{AccountId: p.AccountID, Id: upload, Key: key, ContentType: m.contentType}); err != nil {
			return nil, fault.FromStatus(err)
		}
		begun = true
		var err error
		if w, err = s.d.Store.Writer(wctx, key, m.contentType); err != nil {
			return nil, fault.Wrap(err, fault.Unavailable, "the file could not be stored; try again")
		}
		return w, nil
	})
	if w != nil {
		if err != nil {
			abandon() // Close after a cancel discards what was written
		}
		if cerr := w.Close(); cerr != nil && err == nil {
			err = fault.Wrap(cerr, fault.Unavailable, "the file could not be stored; try again")
		}
	}
	if err == nil {
		var resp *ledgerv1.FinishUploadResponse
		if resp, err = s.finishUpload(ctx, p, upload, m, size, sum); err == nil {
			s.d.Logger.InfoContext(ctx, "upload stored", "upload_id", upload, "account_id", p.AccountID, "content_type", m.contentType, "bytes", size)
			return resp.GetUpload(), nil
		}
	}
	if begun {
		s.drop(ctx, p, upload)
	}
	return nil, err
}

func (s *Service) finishUpload(ctx context.Context, p auth.Principal, upload string, m medium, size int64, sum []byte) (*ledgerv1.FinishUploadResponse, error) {
	resp, err := s.d.Uploads.FinishUpload(ctx, &ledgerv1.FinishUploadRequest{AccountId: p.AccountID, Id: upload, SizeBytes: size, Sha256: sum, Width: m.width, Height: m.height})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return resp, nil
}

// drop gives an upload up. Where that fails it expires.
func (s *Service) drop(ctx context.Context, p auth.Principal, uploads ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, u := range uploads {
		if _, err := s.d.Uploads.DropUpload(ctx, &ledgerv1.DropUploadRequest{AccountId: p.AccountID, Id: u}); err != nil {
			s.d.Logger.WarnContext(ctx, "upload not dropped; it will expire", "upload_id", u, "error", err.Error())
		}
	}
}

func (s *Service) getUpload(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	found, err := s.findUpload(r.Context(), p, r.PathValue("id"))
	return showUpload(w, found.GetUpload(), err)
}

func (s *Service) postComplete(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	u, err := s.completeUpload(r.Context(), p, r.PathValue("id"))
	return showUpload(w, u, err)
}

func (s *Service) dropUpload(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := s.deleteUpload(r.Context(), p, r.PathValue("id")); err != nil {
		return err
	}
	videojson.Write(w, http.StatusOK, deletedObject{ID: r.PathValue("id"), Object: "upload.deleted", Deleted: true})
	return nil
}

// postUpload takes a file, or promises to have one taken by the bucket.
func (s *Service) postUpload(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := p.Active(); err != nil {
		return err
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return invalid([]fault.Field{{Name: "Content-Type", Message: "must be that of the file, multipart/form-data with a part named file, or application/json to begin a larger upload"}})
	}
	if kind == "application/json" {
		return s.postPromise(w, r, p)
	}
	most := max(s.cfg.UploadMaxBytes, s.cfg.UploadMaxVideoBytes)
	if r.ContentLength > most+MaxBody {
		return fault.New(fault.PayloadTooLarge, "the body is larger than %d bytes, the most for images, and %d, the most for videos", s.cfg.UploadMaxBytes, s.cfg.UploadMaxVideoBytes)
	}
	s.extend(w)
	body := io.Reader(http.MaxBytesReader(w, r.Body, most+MaxBody))
	if kind == "multipart/form-data" {
		if body, err = filePart(multipart.NewReader(body, params["boundary"])); err != nil {
			return err
		}
	}
	u, err := s.take(r.Context(), p, "file", false, body)
	return showUpload(w, u, err)
}

// extend gives a request the time that a file may take.
func (s *Service) extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.UploadTimeout))
}

// uploadBody begins an upload that goes straight to the bucket.
type uploadBody struct {
	Bytes       number `json:"bytes"`
	ContentType string `json:"content_type"`
	Purpose     string `json:"purpose"`
}

// postPromise begins an upload that goes straight to the bucket.
func (s *Service) postPromise(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var b uploadBody
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	if err := bodyInto(r, &b); err != nil {
		return err
	}
	var size int64
	if _, err := fmt.Sscanf(string(b.Bytes), "%d", &size); err != nil || fmt.Sprint(size) != string(b.Bytes) {
		size = 0
	}
	var bad []fault.Field
	if b.Purpose != "" && b.Purpose != "input_reference" {
		bad = append(bad, fault.Field{Name: "purpose", Message: "must be input_reference, or left out"})
	}
	resp, err := s.createUpload(r.Context(), p, &videov1.CreateUploadRequest{ContentType: b.ContentType, SizeBytes: size}, bad...)
	if err != nil {
		return err
	}
	o := uploadJSON(resp.GetUpload())
	o.UploadURL, o.Method, o.Headers, o.UploadExpiresAt = resp.GetUploadUrl(), http.MethodPut, resp.GetHeaders(), resp.GetUploadExpiresAt().GetSeconds()
	videojson.Write(w, http.StatusOK, o)
	return nil
}

func (s *Service) createUpload(ctx context.Context, p auth.Principal, r *videov1.CreateUploadRequest, bad ...fault.Field) (*videov1.CreateUploadResponse, error) {
	if err := p.Active(); err != nil {
		return nil, err
	}
	m := medium{contentType: r.GetContentType(), ext: media[r.GetContentType()]}
	if m.ext == "" {
		bad = append(bad, fault.Field{Name: "content_type", Message: "must be image/jpeg, image/png, image/webp, video/mp4, video/quicktime or video/webm"})
	}
	if r.GetSizeBytes() <= 0 {
		bad = append(bad, fault.Field{Name: "bytes", Message: "must be the exact size of the file"})
	}
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	if r.GetSizeBytes() > s.largest(m) {
		return nil, s.oversize("bytes", m)
	}
	upload := id.New(id.Upload)
	key := uploadKey(p.AccountID, upload, m.ext)
	begun, err := s.d.Uploads.BeginUpload(ctx, &ledgerv1.BeginUploadRequest{AccountId: p.AccountID, Id: upload, Key: key, ContentType: m.contentType,
		SizeBytes: r.GetSizeBytes(), OpenFor: durationpb.New(putLife)})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	put, err := s.d.Store.SignPut(ctx, key, m.contentType, r.GetSizeBytes(), putLife)
	if err != nil {
		s.drop(ctx, p, upload)
		return nil, err
	}
	return &videov1.CreateUploadResponse{Upload: begun.GetUpload(), UploadUrl: put.URL, Headers: put.Header, UploadExpiresAt: timestamppb.New(put.ExpiresAt)}, nil
}

// completeUpload looks at a file that was sent to the bucket. What is not as was
// said cannot be mended, for it cannot be sent again: the upload is dropped.
func (s *Service) completeUpload(ctx context.Context, p auth.Principal, upload string) (*videov1.Upload, error) {
	if err := p.Active(); err != nil {
		return nil, err
	}
	found, err := s.findUpload(ctx, p, upload)
	if err != nil || found.GetUpload().GetState() == videov1.UploadState_UPLOAD_STATE_READY {
		return found.GetUpload(), err
	}
	done, err := s.places.take(ctx, p.AccountID)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UploadTimeout)
	defer cancel()
	r, size, err := s.d.Store.Reader(ctx, found.GetKey())
	if errors.Is(err, bucket.ErrAbsent) {
		return nil, fault.New(fault.Conflict, "the file has not come yet; send it by PUT to upload_url first")
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "the file could not be read; try again")
	}
	defer func() { _ = r.Close() }()
	said := found.GetUpload()
	wrong := func(field, format string, args ...any) error {
		s.drop(ctx, p, upload)
		return invalid([]fault.Field{{Name: field, Message: fmt.Sprintf(format, args...) + "; begin a new upload"}})
	}
	if size != said.GetSizeBytes() {
		return nil, wrong("bytes", "the file has %d bytes, not %d", size, said.GetSizeBytes())
	}
	var other string
	m, n, sum, err := s.examine("file", r, func(m medium) (io.Writer, error) {
		if m.contentType != said.GetContentType() {
			other = m.contentType
			return nil, io.EOF
		}
		return io.Discard, nil
	})
	switch f := fault.From(err); {
	case other != "":
		return nil, wrong("content_type", "the file is %s, not %s", other, said.GetContentType())
	case err == nil && n != size:
		return nil, fault.New(fault.Unavailable, "the file could not be read; try again")
	case err == nil:
	case f.Code == fault.InvalidRequest && len(f.Fields) > 0:
		return nil, wrong("file", "%s", f.Fields[0].Message)
	default:
		return nil, err
	}
	resp, err := s.finishUpload(ctx, p, upload, m, n, sum)
	return resp.GetUpload(), err
}

func (s *Service) deleteUpload(ctx context.Context, p auth.Principal, upload string) error {
	if err := p.Active(); err != nil {
		return err
	}
	if !uploadID.MatchString(upload) {
		return noUpload()
	}
	if _, err := s.d.Uploads.DropUpload(ctx, &ledgerv1.DropUploadRequest{AccountId: p.AccountID, Id: upload}); err != nil {
		return fault.FromStatus(err)
	}
	return nil
}

func (s *Service) listUploads(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	after, limit, err := paged(r.URL.Query())
	if err != nil {
		return err
	}
	if after != "" && !uploadID.MatchString(after) {
		return invalid([]fault.Field{{Name: "after", Message: "must be the id of an upload"}})
	}
	resp, err := s.d.Uploads.ListUploads(r.Context(), &ledgerv1.ListUploadsRequest{AccountId: p.AccountID, After: after, Limit: limit})
	if err != nil {
		return fault.FromStatus(err)
	}
	out := uploadsObject{Object: "list", Data: []uploadObject{}, HasMore: resp.GetHasMore()}
	for _, u := range resp.GetUploads() {
		out.Data = append(out.Data, uploadJSON(u))
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

type uploadsObject struct {
	Object  string         `json:"object"`
	Data    []uploadObject `json:"data"`
	HasMore bool           `json:"has_more"`
}

// uploadObject is an upload as JSON.
type uploadObject struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Status      string `json:"status"` // pending, ready
	Bytes       int64  `json:"bytes"`
	ContentType string `json:"content_type"`
	SHA256      string `json:"sha256,omitempty"`
	Width       int32  `json:"width,omitempty"`
	Height      int32  `json:"height,omitempty"`
	CreatedAt   int64  `json:"created_at"`
	ExpiresAt   int64  `json:"expires_at"`

	UploadURL       string            `json:"upload_url,omitempty"`
	Method          string            `json:"method,omitempty"`
	Headers         map[string]string `json:"headers,omitempty"`
	UploadExpiresAt int64             `json:"upload_expires_at,omitempty"`
}

func uploadJSON(u *videov1.Upload) uploadObject {
	o := uploadObject{ID: u.GetId(), Object: "upload", Status: "pending", Bytes: u.GetSizeBytes(), ContentType: u.GetContentType(), SHA256: u.GetSha256(),
		Width: u.GetWidth(), Height: u.GetHeight(), CreatedAt: u.GetCreatedAt().GetSeconds(), ExpiresAt: u.GetExpiresAt().GetSeconds()}
	if u.GetState() == videov1.UploadState_UPLOAD_STATE_READY {
		o.Status = "ready"
	}
	return o
}

func showUpload(w http.ResponseWriter, u *videov1.Upload, err error) error {
	if err != nil {
		return err
	}
	videojson.Write(w, http.StatusOK, uploadJSON(u))
	return nil
}

type uploadServer struct {
	videov1.UnimplementedUploadServiceServer
	s *Service
}

// CreateUpload implements UploadService.
func (g *uploadServer) CreateUpload(ctx context.Context, r *videov1.CreateUploadRequest) (*videov1.CreateUploadResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	return g.s.createUpload(ctx, p, r)
}

// CompleteUpload implements UploadService.
func (g *uploadServer) CompleteUpload(ctx context.Context, r *videov1.CompleteUploadRequest) (*videov1.CompleteUploadResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	u, err := g.s.completeUpload(ctx, p, r.GetId())
	return &videov1.CompleteUploadResponse{Upload: u}, err
}

// GetUpload implements UploadService.
func (g *uploadServer) GetUpload(ctx context.Context, r *videov1.GetUploadRequest) (*videov1.GetUploadResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	found, err := g.s.findUpload(ctx, p, r.GetId())
	return &videov1.GetUploadResponse{Upload: found.GetUpload()}, err
}

// DeleteUpload implements UploadService.
func (g *uploadServer) DeleteUpload(ctx context.Context, r *videov1.DeleteUploadRequest) (*videov1.DeleteUploadResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	return &videov1.DeleteUploadResponse{}, g.s.deleteUpload(ctx, p, r.GetId())
}
