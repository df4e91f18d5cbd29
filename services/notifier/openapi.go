package notifier

import (
	"net/http"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/openapi"
	"reelway.dev/pkg/videojson"
)

// door is a request that is served, and what is told of it.
type door struct {
	openapi.Operation

	serve func(*Service, http.ResponseWriter, *http.Request)
}

// Operations are the notifier's part of the API.
func Operations() (out []openapi.Operation) {
	for _, d := range doors() {
		out = append(out, d.Operation)
	}
	return out
}

// doors are the streams.
func doors() []door {
	token := openapi.Param{In: "query", Name: "token", Text: "A browser token, in the place of a key."}
	after := []openapi.Param{
		{In: "header", Name: "Last-Event-ID", Text: "The cursor to resume after."},
		{In: "query", Name: "last_event_id", Text: "The same, for who cannot set headers."}, token}
	const video = "video_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77"
	stream := func(text string) openapi.Answer {
		return openapi.Answer{Status: http.StatusOK, Text: text + " `data` of each event is a `Frame`; `id` is its cursor.", Type: "text/event-stream",
			Body: "retry: 1000\n\nevent: snapshot\ndata: {\"type\":\"snapshot\",\"sequence\":534,\"video_id\":\"" + video + "\",\"video\":{…}}\n\n"}
	}
	refused := []fault.Code{fault.NotFound}
	return []door{
		{openapi.Operation{Method: http.MethodGet, Path: "/v1/videos/{id}/events", ID: "watchVideo", Tag: "live", Summary: "Watch a video by server-sent events", Scope: auth.VideosRead, Token: true,
			Params: append([]openapi.Param{{In: "path", Name: "id", Text: "The id of a video.", Example: video}}, after...), Also: []any{frame{}}, Faults: refused,
			Answers: []openapi.Answer{stream("How the video stands, and each change of it until it is final."), {Status: http.StatusNoContent, Text: "The video is final, and you have seen it end."}}},
			func(s *Service, w http.ResponseWriter, r *http.Request) { s.sse(w, r, r.PathValue("id"), "") }},
		{openapi.Operation{Method: http.MethodGet, Path: "/v1/events", ID: "watchVideos", Tag: "live", Summary: "Watch all videos, or an end user's, by server-sent events", Scope: auth.VideosRead, Token: true,
			Params:  append([]openapi.Param{{In: "query", Name: "user", Text: "Only this end user's.", Example: "alice"}}, after...),
			Answers: []openapi.Answer{stream("All unfinished videos, and each change.")}},
			func(s *Service, w http.ResponseWriter, r *http.Request) { s.sse(w, r, "", r.URL.Query().Get("user")) }},
		{openapi.Operation{Method: http.MethodGet, Path: "/v1/stream", ID: "openStream", Tag: "live", Summary: "Open a WebSocket", Scope: auth.VideosRead, Token: true,
			Text:   "Takes subscriptions as JSON and sends `Frame`s: docs/realtime.md. The subprotocols `reelway.bearer.KEY` and `reelway.token.TOKEN` stand for the header and the query, which browsers cannot set.",
			Params: []openapi.Param{token},
			Answers: []openapi.Answer{{Status: http.StatusSwitchingProtocols, Text: "The WebSocket is open. Credentials that come in a subprotocol are refused by its close code.",
				Headers: map[string]string{"Upgrade": "`websocket`"}},
				{Status: http.StatusUpgradeRequired, Text: "It is no handshake of a WebSocket.",
					Body: videojson.Envelope{Error: videojson.FaultOf("req_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", fault.New(fault.InvalidRequest, "this is a WebSocket: ask for an upgrade"))}}}},
			(*Service).socket},
	}
}

// OpenAPI implements openapi.Described.
func (frame) OpenAPI() openapi.Schema {
	return openapi.Schema{Text: "What a WebSocket sends, and the data of a server-sent event.", Fields: map[string]openapi.Note{
		"type":     {Enum: []string{"subscribed", "snapshot", "event", "notice", "reset", "end", "error", "pong"}},
		"cursor":   {Text: "Resumes the watch whose frame it came with."},
		"sequence": {Text: "Of the video: each is higher than all before."},
		"video_id": {Text: "Whose watch it is of: a video's."},
		"user":     {Text: "A user's; with neither it is the account's."},
		"more":     {Text: "Of `subscribed`: not every unfinished video was told."},
		"video":    {Text: "Without cost and attempts where a browser token watches.", Of: []any{videojson.Video{}, shown{}}},
	}}
}

// OpenAPI implements openapi.Described.
func (shown) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WatchedVideo", Text: "A video as the holder of a browser token sees it: without `cost` and `attempts`."}
}

// OpenAPI implements openapi.Described.
func (notice) OpenAPI() openapi.Schema {
	return openapi.Schema{Text: "A word to the account about its spending or an endpoint.", Fields: map[string]openapi.Note{"kind": {Enum: []string{"budget", "paused", "webhook_disabled"}}}}
}
