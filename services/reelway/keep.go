package reelway

import (
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// keep is how long an account's videos are kept: an age of its own, or nil for
// the common one.
type keep struct{ age *time.Duration }

// UnmarshalText reads an age, forever or default.
func (k *keep) UnmarshalText(text []byte) error {
	var age time.Duration
	switch string(text) {
	case "default":
		k.age = nil
		return nil
	case "forever":
	default:
		var err error
		if age, err = time.ParseDuration(string(text)); err != nil || age < time.Second || age%time.Second != 0 {
			return errors.New("must be whole seconds such as 720h, forever, or default")
		}
	}
	k.age = &age
	return nil
}

// own is the age for the ledger; nil when nothing, or the common one, was asked
// for.
func (k *keep) own() *durationpb.Duration {
	if k == nil || k.age == nil {
		return nil
	}
	return durationpb.New(*k.age)
}

// common reports whether the common age was asked for.
func (k *keep) common() bool { return k != nil && k.age == nil }

func keptFor(a *ledgerv1.Account) string {
	switch d := a.GetRetainVideos(); {
	case d == nil:
		return "as REELWAY_RETAIN_VIDEOS says"
	case d.GetSeconds() == 0:
		return "for ever"
	default:
		return d.AsDuration().String()
	}
}
