package intake

import "reelway.dev/pkg/videojson"

// What REST answers besides videos, endpoints and deliveries. Fields are in the
// order in which they are written.

type deletedObject struct {
	Deleted bool   `json:"deleted"`
	ID      string `json:"id"`
	Object  string `json:"object"` // of what there was, and .deleted
}

type videosObject struct {
	Data    []videojson.Video `json:"data"`
	FirstID *string           `json:"first_id"`
	HasMore bool              `json:"has_more"`
	LastID  *string           `json:"last_id"`
	Object  string            `json:"object"`
}

type lineObject struct {
	Amount       string `json:"amount"`
	AmountMicros int64  `json:"amount_micros"`
	Description  string `json:"description"`
	Quantity     int64  `json:"quantity"`
	Unit         string `json:"unit"`
}

// quoteObject is what a request would make, and its highest price.
type quoteObject struct {
	AspectRatio string             `json:"aspect_ratio"`
	Duration    int32              `json:"duration"`
	Height      int32              `json:"height"`
	Lines       []lineObject       `json:"lines"`
	Model       string             `json:"model"`
	Object      string             `json:"object"`
	Resolution  string             `json:"resolution"`
	Route       string             `json:"route,omitempty"`
	Routes      []quoteRouteObject `json:"routes"`
	Total       string             `json:"total"`
	TotalMicros int64              `json:"total_micros"`
	Width       int32              `json:"width"`
}

type quoteRouteObject struct {
	AspectRatio string       `json:"aspect_ratio"`
	Dropped     []string     `json:"dropped"`
	Duration    int32        `json:"duration"`
	Height      int32        `json:"height"`
	Lines       []lineObject `json:"lines"`
	Model       string       `json:"model"`
	Price       string       `json:"price"`
	PriceMicros int64        `json:"price_micros"`
	Provider    string       `json:"provider"`
	Resolution  string       `json:"resolution"`
	Width       int32        `json:"width"`
}

type balanceObject struct {
	Available       string `json:"available"`
	AvailableMicros int64  `json:"available_micros"`
	Granted         string `json:"granted"` // of what is available, what was given
	Held            string `json:"held"`
	HeldMicros      int64  `json:"held_micros"`
	Object          string `json:"object"`
}

type modelsObject struct {
	Aliases []aliasObject `json:"aliases"`
	Data    []modelObject `json:"data"`
	Object  string        `json:"object"`
}

type aliasObject struct {
	Description string   `json:"description"`
	ID          string   `json:"id"`
	Models      []string `json:"models"`
	Object      string   `json:"object"`
	Pick        string   `json:"pick"`
}

// modelObject is a model. What is not known is null.
type modelObject struct {
	AspectRatios       []string           `json:"aspect_ratios"`
	Audio              bool               `json:"audio"`
	AudioAlways        bool               `json:"audio_always"`
	Created            int64              `json:"created"`
	Durations          []int32            `json:"durations"`
	DurationsAt        map[string][]int32 `json:"durations_at"`
	ID                 string             `json:"id"`
	Limits             modelLimitsObject  `json:"limits"`
	MaxSeconds         *int64             `json:"max_seconds"`
	Name               string             `json:"name"`
	NegativePrompt     bool               `json:"negative_prompt"`
	Object             string             `json:"object"`
	OwnedBy            string             `json:"owned_by"`
	PricePerSecondFrom *string            `json:"price_per_second_from"`
	Priced             bool               `json:"priced"`
	Prices             []modelPriceObject `json:"prices"`
	Provenance         map[string]string  `json:"provenance"`
	Provider           string             `json:"provider"`
	Regions            []string           `json:"regions"`
	Resolutions        []string           `json:"resolutions"`
	ResultLifeSeconds  *int64             `json:"result_life_seconds"`
	Seed               bool               `json:"seed"`
	Source             modelSourceObject  `json:"source"`

	Sources map[string]modelTaskObject `json:"sources"`

	TaskResolutions map[string][]string `json:"task_resolutions"`
	Tasks           []string            `json:"tasks"`
	TypicalSeconds  *int64              `json:"typical_seconds"`
	Watermark       bool                `json:"watermark"`
}

type modelLimitsObject struct {
	ConcurrentTasks          *int64 `json:"concurrent_tasks"`
	NegativePromptCharacters *int64 `json:"negative_prompt_characters"`
	PromptCharacters         *int64 `json:"prompt_characters"`
	RequestsPerMinute        *int64 `json:"requests_per_minute"`
}

// modelTaskObject is what a task that works on a video takes, and asks for where
// it differs.
type modelTaskObject struct {
	Durations  []int32            `json:"durations,omitempty"`
	MaxSeconds *int64             `json:"max_seconds"`
	Own        bool               `json:"own"` // a video that this model made, and no other
	Prices     []modelPriceObject `json:"prices,omitempty"`
	SameLength bool               `json:"same_length"`
}

// modelPriceObject is a price by the second, or of a clip of some seconds.
type modelPriceObject struct {
	Audio      bool   `json:"audio"`
	Duration   int32  `json:"duration,omitempty"`
	PerClip    string `json:"per_clip,omitempty"`
	PerSecond  string `json:"per_second,omitempty"`
	Resolution string `json:"resolution"`
}

type modelSourceObject struct {
	Date string `json:"date"`
	Note string `json:"note"`
	URL  string `json:"url"`
}

type usageObject struct {
	Data    []usageRow `json:"data"`
	From    string     `json:"from"`
	HasMore bool       `json:"has_more"`
	Next    *string    `json:"next"`
	Object  string     `json:"object"`
	To      string     `json:"to"`
}

// statementHead is a statement but for its movements, which follow it one by one.
type statementHead struct {
	Closing  statementBooks `json:"closing"`
	EndsAt   string         `json:"ends_at"`
	Month    string         `json:"month"`
	Object   string         `json:"object"`
	Opening  statementBooks `json:"opening"`
	StartsAt string         `json:"starts_at"`
	TimeZone string         `json:"time_zone"`
}

type statementBooks struct {
	Available string `json:"available"`
	Held      string `json:"held"`
}

// statementObject is a whole statement, which no answer holds at once.
type statementObject struct {
	statementHead

	Movements []statementMovement `json:"movements"`
}

type tokenObject struct {
	ExpiresAt int64  `json:"expires_at"`
	ID        string `json:"id"`
	Object    string `json:"object"`
	Token     string `json:"token"`
}

type revokedObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Revoked bool   `json:"revoked"`
}

type endpointsObject struct {
	Data    []endpointObject `json:"data"`
	HasMore bool             `json:"has_more"`
	Object  string           `json:"object"`
}

type deliveriesObject struct {
	Data    []deliveryObject `json:"data"`
	HasMore bool             `json:"has_more"`
	Object  string           `json:"object"`
}

type replayObject struct {
	Deliveries int64  `json:"deliveries"`
	Object     string `json:"object"`
}

type healthObject struct {
	Status string `json:"status"`
}
