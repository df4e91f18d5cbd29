package runway_test

import (
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/provider/runway"
)

func TestRecorded(t *testing.T) {
	t.Parallel()
	open := func(url string) provider.Adapter {
		return runway.New(runway.Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
	}
	providertest.Recorded(t, open, provider.Task{Model: "gen4.5", Prompt: "p", Duration: 5, Width: 1280, Height: 720}, "w1")
}
