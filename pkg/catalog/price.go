package catalog

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// CostCurrency is the currency of the catalogue's costs.
const CostCurrency = "USD"

// Price is what video of one resolution costs, in millionths: by the second, or
// by the clip of so many seconds, which goes before. Without a price of its own
// sound costs nothing more.
type Price struct {
	Second          int64           `yaml:"second"`
	SecondWithAudio int64           `yaml:"second_with_audio"`
	Clip            map[int32]int64 `yaml:"clip"` // by seconds
	ClipWithAudio   map[int32]int64 `yaml:"clip_with_audio"`
}

// of is the price of a video: quantity times unit, with the unit in words; a
// unit of 0 is no price.
func (p Price) of(seconds int32, audio bool) (unit, quantity int64, words string) {
	clip := fmt.Sprintf("a clip of %d s", seconds)
	if audio {
		switch {
		case p.ClipWithAudio[seconds] > 0:
			return p.ClipWithAudio[seconds], 1, "with sound, " + clip
		case p.SecondWithAudio > 0:
			return p.SecondWithAudio, int64(seconds), "with sound, a second"
		}
	}
	if p.Clip[seconds] > 0 {
		return p.Clip[seconds], 1, clip
	}
	return p.Second, int64(seconds), "a second"
}

// total is unit times quantity; false when there is no price or it does not fit.
func total(unit, quantity int64) (int64, bool) {
	if unit <= 0 || quantity <= 0 || unit > math.MaxInt64/quantity {
		return 0, false
	}
	return unit * quantity, true
}

// Priced reports whether the model may be asked for: it has prices.
func (m Model) Priced() bool { return len(m.Prices) > 0 }

// unpriced says why a model without a price is refused.
func (m Model) unpriced() fault.Field {
	return fault.Field{Name: "model", Message: m.ID + " has no price yet and cannot be used; choose one with priced true, or ask the operator to set its price"}
}

// Quote prices resolved params: line by line, and the sum in micro-credits. What
// has no price is refused.
func (m Model) Quote(p *videov1.VideoParams) ([]*videov1.PriceLine, int64, error) {
	price, ok := m.priceOf(Task(p), p.GetResolution())
	if !ok || !m.Priced() {
		return nil, 0, fault.Invalid(m.unpriced())
	}
	unit, quantity, words := price.of(p.GetDurationSeconds(), p.GetAudio())
	sum, ok := total(unit, quantity)
	if !ok {
		return nil, 0, fmt.Errorf("price of %s at %s for %d s is none that can be charged", m.ID, p.GetResolution(), p.GetDurationSeconds())
	}
	return []*videov1.PriceLine{{Description: fmt.Sprintf("%s, %s, %s", m.Name, p.GetResolution(), words),
		UnitMicros: unit, Quantity: quantity, AmountMicros: sum}}, sum, nil
}

// Cost is what the provider is expected to ask for a video, in micro-USD: by
// the model's own costs where they are known, else its price, which then stands
// for the provider's list price, as a task's own price does. quoted is the price of p.
func (m Model) Cost(p *videov1.VideoParams, quoted int64) int64 {
	if m.Sources[Task(p)].Prices != nil {
		return quoted
	}
	unit, quantity, _ := m.Costs[p.GetResolution()].of(p.GetDurationSeconds(), p.GetAudio())
	if sum, ok := total(unit, quantity); ok {
		return sum
	}
	return quoted
}

// prices are all of a model's, by resolution in its order. What always has
// sound has prices with sound alone.
func (m Model) prices() []*videov1.ModelPrice { return m.told(m.Prices, m.Durations) }

func (m Model) told(prices map[string]Price, durations []int32) (out []*videov1.ModelPrice) {
	for _, r := range m.Resolutions {
		p := prices[r]
		add := func(silent, sound int64, clip int32) {
			if silent > 0 && !m.AudioAlways {
				out = append(out, &videov1.ModelPrice{Resolution: r, ClipSeconds: clip, AmountMicros: silent})
			}
			if sound > 0 && m.Audio {
				out = append(out, &videov1.ModelPrice{Resolution: r, Audio: true, ClipSeconds: clip, AmountMicros: sound})
			}
		}
		add(p.Second, cmp.Or(p.SecondWithAudio, p.Second), 0)
		for _, d := range slices.Sorted(slices.Values(durations)) {
			sound := p.ClipWithAudio[d]
			if sound == 0 && p.SecondWithAudio == 0 {
				sound = p.Clip[d]
			}
			add(p.Clip[d], sound, d)
		}
	}
	return out
}

// lowest is the lowest price of a second, in micro-credits, rounded up.
func lowest(prices []*videov1.ModelPrice) (least int64) {
	for _, p := range prices {
		d := int64(max(p.GetClipSeconds(), 1))
		if second := (p.GetAmountMicros() + d - 1) / d; least == 0 || second < least {
			least = second
		}
	}
	return least
}
