package intake

import (
	"net/http"
	"strconv"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/videojson"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// content redirects to a fresh signed URL of the video, or of an image of it.
func (s *Service) content(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	variant, download := r.URL.Query().Get("variant"), false
	var bad []fault.Field
	if variant != "" && variant != "video" && variant != "thumbnail" && variant != "spritesheet" {
		bad = append(bad, fault.Field{Name: "variant", Message: "must be video, thumbnail or spritesheet"})
	}
	if word := r.URL.Query().Get("download"); word != "" {
		var err error
		if download, err = strconv.ParseBool(word); err != nil {
			bad = append(bad, fault.Field{Name: "download", Message: "must be true or false"})
		}
	}
	if len(bad) > 0 {
		return invalid(bad)
	}
	v, err := s.get(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	key, err := contentKey(v, variant)
	if err != nil {
		return err
	}
	u, _, err := s.d.Files.Sign(r.Context(), key, bucket.Response{Download: download})
	if err != nil {
		return err
	}
	http.Redirect(w, r, u, http.StatusFound) //nolint:gosec // a URL that we have just signed
	return nil
}

// contentKey is where a video's file, or an image of it, lies; otherwise why
// there is none.
func contentKey(v *videov1.Video, variant string) (string, error) {
	a := v.GetArtifact()
	switch o := videojson.Of(v); {
	case o.Status == "completed" && a.GetKey() == "":
		return "", fault.New(fault.NotFound, "the video's file was removed after the time for which this service keeps results")
	case o.Status != "completed":
		e := fault.New(fault.Conflict, "the video is %s and has no content", o.State)
		if o.Status != "failed" {
			e.Message += " yet"
			e.Retryable, e.RetryAfter = true, 2*time.Second
		}
		return "", e
	}
	key := a.GetKey()
	switch variant {
	case "thumbnail":
		key = a.GetThumbnail().GetKey()
	case "spritesheet":
		key = a.GetSpritesheet().GetKey()
	}
	if key != "" {
		return key, nil
	}
	why := "it was stored by a version that made none"
	switch a.GetVariantsMissing() {
	case "off":
		why = "this service makes none"
	case "no_ffmpeg":
		why = "this service has no ffmpeg to make it with"
	case "failed":
		why = "it could not be made of this file"
	}
	return "", fault.New(fault.NotFound, "the video has no %s: %s; the video itself is there", variant, why)
}
