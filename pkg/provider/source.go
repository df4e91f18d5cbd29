package provider

import (
	"errors"

	"reelway.dev/pkg/fault"
)

// ErrNotSearchable is in the chain of Find's error when a task of this kind
// cannot be looked for: as if the adapter were no Finder.
var ErrNotSearchable = errors.New("the provider cannot be asked for such a task")

// CannotUse refuses a task on a source video that an adapter cannot hand over:
// without it, another video would be made and paid for.
func CannotUse(provider string) error {
	return Rule{Code: fault.ProviderRejected, Meaning: "this source video cannot be given to " + provider}.Refuse(provider, "source", "", 0)
}

// LostSource classes what went wrong with the read of a source's task before a
// submit: nothing was sent. A task that the provider does not know any more
// (ErrNoTask) is a definite refusal.
func LostSource(provider string, err error) error {
	if errors.Is(err, ErrNoTask) {
		return Rule{Code: fault.ProviderRejected, Meaning: "the source video is not known to our account at " + provider + " any more"}.Refuse(provider, "source", "", 0)
	}
	return Refused(provider, &NotSentError{Err: err})
}
