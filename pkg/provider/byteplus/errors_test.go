package byteplus

import (
	"maps"
	"slices"
	"testing"

	"reelway.dev/pkg/provider/providertest"
)

// Every row of the tables is proven by a recorded answer.
func TestErrorTablesAreRecorded(t *testing.T) {
	t.Parallel()
	var heads []string
	for _, c := range codes {
		heads = append(heads, c.head)
	}
	providertest.Complete(t, slices.Collect(maps.Keys(errorTable)), heads)
}
