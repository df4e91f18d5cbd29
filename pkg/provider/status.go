package provider

import "fmt"

// StatusError says that a question about a task was answered with an HTTP status
// that is no success. It says nothing of the task.
type StatusError struct {
	Doing  string // "read task"
	Status int
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("%s: status %d", e.Doing, e.Status) }
