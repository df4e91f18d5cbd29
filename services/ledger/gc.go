package ledger

import (
	"os"
	"runtime/debug"
)

// CollectLess has the garbage of this process collected when the heap has grown
// to five times what lives, unless GOGC says otherwise. A ledger keeps little and
// makes much garbage: at the default a quarter of its time went into collecting,
// and observations ran a fifth slower. It is for processes that are a ledger
// alone; the heap stays under some hundred MB.
func CollectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
