package reelway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// uploadTimeout bounds the sending of one file.
const uploadTimeout = 10 * time.Minute

// upload sends a file and returns its id.
func (c client) upload(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", &exitError{exitUsage, err}
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no file")
	}
	if err != nil {
		return "", &exitError{exitUsage, fmt.Errorf("%s: %w", path, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/uploads", f)
	if err != nil {
		return "", fmt.Errorf("make request: %w", err)
	}
	req.ContentLength = info.Size()
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/octet-stream") // Reelway looks for itself
	req.Header.Set("User-Agent", "reelway")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", &absence{fmt.Errorf("%s does not take the file; is Reelway up, and is this its HTTP address? %w", c.base, err)}
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", refused(resp)
	}
	var u struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&u); err != nil {
		return "", &absence{fmt.Errorf("read the answer of %s: %w", c.base, err)}
	}
	return u.ID, nil
}

// sendFiles uploads what a request names as files of this machine, and names the
// uploads in their place. done drops the uploads once the request was answered: a
// video that was submitted keeps what it needs.
func (c client) sendFiles(ctx context.Context, want map[string]any) (done func(), _ error) {
	var sent []string
	done = func() {
		for _, id := range sent {
			// What is not dropped expires.
			_ = c.call(context.WithoutCancel(ctx), http.MethodDelete, "/v1/uploads/"+id, nil, &struct{}{})
		}
	}
	for _, field := range []string{"image_url", "end_image_url", "video_url"} {
		name, _ := want[field].(string)
		if name == "" || strings.Contains(name, ":") || strings.HasPrefix(name, "upload_") {
			continue
		}
		id, err := c.upload(ctx, name)
		if err != nil {
			done()
			return nil, err
		}
		sent = append(sent, id)
		want[field] = id
	}
	return done, nil
}
