// Command apidoc writes what the REST API is, of the tables from which it is
// served: docs/openapi.json, the same for intake to serve, and docs/postman.json.
// It runs at the root of the repository, by make generate.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/openapi"
	"reelway.dev/pkg/videojson"
	"reelway.dev/services/intake"
	"reelway.dev/services/notifier"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("apidoc: ", err)
	}
}

func run() error {
	ops := slices.Concat(intake.Operations(), notifier.Operations())
	doc, err := openapi.Document(info, ops)
	if err != nil {
		return err
	}
	collection, err := openapi.Postman(doc)
	if err != nil {
		return err
	}
	var served bytes.Buffer
	if err := json.Compact(&served, doc); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	for path, data := range map[string][]byte{"docs/openapi.json": doc, "docs/postman.json": collection, "services/intake/openapi.json": served.Bytes()} {
		if err := os.WriteFile(path, data, 0o644); err != nil { //nolint:gosec // it is for everybody
			return err
		}
	}
	return nil
}

var info = openapi.Info{
	Title: "Reelway", Version: "1", Server: "http://127.0.0.1:8080",
	Text: "The REST API of Reelway: OpenAI's Videos API, with finer fields beside its own. Every refusal has the same envelope, and says whether a retry helps. docs/api.md is the guide.",
	Tags: []openapi.Tag{
		{Name: "videos", Text: "Submit, read, cancel, download, delete."}, {Name: "uploads", Text: "Files that videos are made of."}, {Name: "models", Text: "What can be asked for, and its price."},
		{Name: "account", Text: "Credits and usage."}, {Name: "webhooks", Text: "Your own system is told."},
		{Name: "live", Text: "Whoever waits is told."}, {Name: "service", Text: "The service itself."}, {Name: "operators", Text: "For keys of the scope `admin`."},
	},
	Refusal: func(e *fault.Error) any {
		return videojson.Envelope{Error: videojson.FaultOf("req_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", e)}
	},
}
