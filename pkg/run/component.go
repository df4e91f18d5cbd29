// Package run is the one way to live: named components, signals, the order of
// draining, configuration from the environment, telemetry and health. It knows
// nothing of videos.
package run

import "context"

// Component is one long-running part of a service.
//
// Run blocks until ctx is done and then finishes what it holds. Returning an
// error, or returning before ctx is done, is fatal to the process: everything
// is drained and the error is its cause.
type Component struct {
	Name string
	Run  func(ctx context.Context) error
}
