package bucket

import "strings"

const refScheme = "bucket:"

// Ref is how a job names an object of the bucket where a URL may stand, such as
// its first frame. A signed URL would not outlive the job's wait: the one who
// hands it to a provider signs it then. Callers cannot write one, for it is no
// https URL.
func Ref(key string) string { return refScheme + key }

// RefKey is the key that a Ref names; ok is false for anything else.
func RefKey(s string) (key string, ok bool) { return strings.CutPrefix(s, refScheme) }
