package ledger

import (
	"cmp"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// Where a job's cost is from.
const (
	costExpected  = "expected"  // by the catalogue, and nothing is rendered yet: no cost
	costCatalogue = "catalogue" // the catalogue's price of what the provider rendered
	costReported  = "reported"  // the provider's own word
)

// expect notes what the provider will probably ask for a new job.
func (j *record) expect(micros int64, currency string) {
	if currency != "" {
		j.Cost, j.CostCurrency, j.CostSource = micros, currency, costExpected
	}
}

// bill notes that the provider rendered, and so charges: what it says itself or
// else what was expected. Its own word is never replaced by a guess.
func (j *record) bill(r *eventv1.Rendered) {
	switch {
	case r.GetProviderCostMicros() > 0:
		j.Cost, j.CostCurrency, j.CostSource = r.GetProviderCostMicros(), cmp.Or(r.GetProviderCostCurrency(), "USD"), costReported
	case j.CostSource == costExpected:
		j.CostSource = costCatalogue
	}
}
