package kling

import (
	"slices"
	"strconv"
	"testing"

	"reelway.dev/pkg/provider/providertest"
)

// Every row of the tables is proven by a recorded answer.
func TestErrorTablesAreRecorded(t *testing.T) {
	t.Parallel()
	all := slices.Clone(policyMarks)
	for code := range errorTable {
		all = append(all, strconv.Itoa(code))
	}
	providertest.Complete(t, nil, all)
}
