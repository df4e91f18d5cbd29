package id_test

import (
	"testing"

	"github.com/google/uuid"

	"reelway.dev/pkg/id"
)

func TestNth(t *testing.T) {
	t.Parallel()
	job := id.New(id.Video)
	seen := map[string]bool{job: true}
	for _, of := range []string{job, id.New(id.Video), "video_by_hand", ""} {
		for n := range 5 {
			got := id.Nth(id.Attempt, of, n)
			if got != id.Nth(id.Attempt, of, n) {
				t.Errorf("%s is not the same the second time", got)
			}
			if seen[got] || !id.Safe(got) {
				t.Errorf("%s of %q, %d", got, of, n)
			}
			seen[got] = true
			u, err := uuid.Parse(got[len("att_"):])
			if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
				t.Errorf("%s is no UUIDv7: %v", got, err)
			}
		}
	}
	of, err := uuid.Parse(job[len("video_"):])
	if err != nil {
		t.Fatal(err)
	}
	if u, err := uuid.Parse(id.Nth(id.Attempt, job, 1)[len("att_"):]); err != nil || u.Time() != of.Time() {
		t.Errorf("%v has not the time of %v", u, of)
	}
}
