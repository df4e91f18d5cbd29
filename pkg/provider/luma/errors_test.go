package luma

import (
	"maps"
	"slices"
	"testing"

	"reelway.dev/pkg/provider/providertest"
)

// Every row of the tables is proven by a recorded answer.
func TestErrorTablesAreRecorded(t *testing.T) {
	t.Parallel()
	providertest.Complete(t, slices.Collect(maps.Keys(errorTable)), slices.Concat(policyMarks, slices.Collect(maps.Keys(failureCodes))))
}
