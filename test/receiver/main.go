// Command receiver takes webhooks and prints what they tell.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func main() {
	verifier, err := standardwebhooks.NewWebhook(os.Getenv("WEBHOOK_SECRET")) // whsec_…
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("POST /webhooks", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || verifier.Verify(body, r.Header) != nil { // the raw bytes, before anything parses them
			http.Error(w, "not signed by Reelway", http.StatusUnauthorized)
			return
		}
		var event struct {
			Type string
			Data struct{ ID, State, URL string }
		}
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(w, "no event", http.StatusBadRequest)
			return
		}
		// Keep r.Header.Get("webhook-id"): an event may come twice.
		_, _ = fmt.Fprintln(os.Stdout, event.Type, event.Data.ID)
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Addr: os.Getenv("LISTEN"), ReadTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
