package catalog

import (
	"math"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// CostCurrency is the currency of the catalogue's costs.
const CostCurrency = "USD"

// Cost is what the provider is expected to ask for a video, in micro-USD: by
// the model's own cost a second where one is known, else its price, which then
// stands for the provider's list price. quoted is the price of p.
func (m Model) Cost(p *videov1.VideoParams, quoted int64) int64 {
	perSecond, seconds := m.CostPerSecond[p.GetResolution()], int64(p.GetDurationSeconds())
	if perSecond <= 0 || seconds <= 0 || perSecond > math.MaxInt64/seconds {
		return quoted
	}
	return perSecond * seconds
}
