// Package web is what the notifier gives to browsers: the module by which they
// watch, its types, and a page that shows it.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
)

//go:embed reelway.js reelway.d.ts demo.html
var files embed.FS

// Files are the handlers by path. Every origin may load them: they are public
// and hold no data. A browser asks each time whether it has the newest.
func Files() map[string]http.Handler {
	out := map[string]http.Handler{}
	for path, f := range map[string]struct{ name, kind string }{
		"/v1/reelway.js":   {"reelway.js", "text/javascript; charset=utf-8"},
		"/v1/reelway.d.ts": {"reelway.d.ts", "text/plain; charset=utf-8"},
		"/v1/demo":         {"demo.html", "text/html; charset=utf-8"},
	} {
		data, err := files.ReadFile(f.name)
		if err != nil {
			panic(err) // it is embedded above
		}
		sum := sha256.Sum256(data)
		tag := `"` + hex.EncodeToString(sum[:8]) + `"`
		out[path] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Type", f.kind)
			h.Set("Cache-Control", "public, no-cache")
			h.Set("ETag", tag)
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("X-Content-Type-Options", "nosniff")
			if r.Header.Get("If-None-Match") == tag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write(data) // the caller has gone; there is nobody to tell
		})
	}
	return out
}
