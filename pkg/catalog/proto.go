package catalog

import (
	"maps"
	"slices"
	"time"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Proto is the model as callers see it.
func (m Model) Proto() *videov1.Model {
	prices := m.prices()
	out := &videov1.Model{
		Id: m.ID, Provider: m.Provider, DisplayName: m.Name, Tasks: slices.Sorted(slices.Values(m.tasks())), DurationsSeconds: m.Durations,
		Resolutions: m.Resolutions, AspectRatios: m.Ratios, Audio: m.Audio, AudioAlways: m.AudioAlways, Seed: m.Seed,
		NegativePrompt: m.NegativePrompt, Watermark: m.Watermark, Provenance: m.Provenance,
		PricePerSecondMicros: lowest(prices), Priced: m.Priced(), Prices: prices,
		TypicalSeconds: seconds(m.TypicalTime), MaxSeconds: seconds(m.MaxTime), ResultLifeSeconds: seconds(m.ResultLife),
		MaxPromptCharacters: int32(m.PromptCharacters), MaxNegativePromptCharacters: int32(m.NegativePromptCharacters), //nolint:gosec // checked to be at most maxText
		RequestsPerMinute: int32(m.RequestsPerMinute), ConcurrentTasks: int32(m.ConcurrentTasks), //nolint:gosec // checked to be at most maxCount
		Regions: m.Regions, Source: m.Source, SourceUrl: m.SourceURL, SourceDate: m.SourceDate,
	}
	for _, r := range slices.Sorted(maps.Keys(m.DurationsAt)) {
		out.Limits = append(out.Limits, &videov1.ModelLimit{Resolution: r, DurationsSeconds: m.DurationsAt[r]})
	}
	for _, t := range slices.Sorted(maps.Keys(m.TaskResolutions)) {
		out.Limits = append(out.Limits, &videov1.ModelLimit{Task: t, Resolutions: m.TaskResolutions[t]})
	}
	for _, t := range m.tasks() {
		if slices.Contains(sourceTasks, t) {
			s := m.Sources[t]
			out.Sources = append(out.Sources, &videov1.ModelSource{Task: t, Own: s.Own, MaxSeconds: s.Seconds, SameLength: s.SameLength,
				DurationsSeconds: s.Durations, Prices: m.told(s.Prices, m.durations(t, ""))})
		}
	}
	return out
}

// seconds are whole ones, rounded up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
