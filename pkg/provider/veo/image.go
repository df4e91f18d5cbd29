package veo

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxImage bounds an image, in bytes; a request may hold two, in base64.
const maxImage = 7 << 20

// errAway is in the chain of image's error when another try may find the image.
var errAway = errors.New("try again later")

// image fetches a caller's image for a request. Its errors may be shown.
func (a *Adapter) image(ctx context.Context, rawURL string) (map[string]any, error) {
	if a.cfg.Images == nil {
		return nil, errors.New("images are not taken here")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, errors.New("its address is not a URL")
	}
	resp, err := a.cfg.Images.Do(req)
	if err != nil { // also in time: a host that lets us wait must not do so again and again
		return nil, errors.New("it cannot be fetched")
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxImage+1))
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("its address answers with status %d: %w", resp.StatusCode, errAway)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("its address answers with status %d", resp.StatusCode)
	case err != nil:
		return nil, errors.New("it cannot be fetched whole")
	case len(data) > maxImage:
		return nil, errors.New("it is larger than 7 MiB")
	}
	kind := http.DetectContentType(data) // of the bytes: a header may lie
	if !strings.HasPrefix(kind, "image/") {
		return nil, errors.New("it is not an image")
	}
	return map[string]any{"bytesBase64Encoded": base64.StdEncoding.EncodeToString(data), "mimeType": kind}, nil
}
