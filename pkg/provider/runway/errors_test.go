package runway

import (
	"maps"
	"slices"
	"testing"

	"reelway.dev/pkg/provider/providertest"
)

// Every row of the tables is proven by a recorded answer.
func TestErrorTablesAreRecorded(t *testing.T) {
	t.Parallel()
	heads := creditMarks
	for _, f := range failures {
		heads = append(heads, f.head)
	}
	providertest.Complete(t, slices.Collect(maps.Keys(errorTable)), heads)
}
