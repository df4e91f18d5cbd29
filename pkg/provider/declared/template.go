package declared

import (
	"fmt"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"reelway.dev/pkg/provider"
)

var field = regexp.MustCompile(`\{([a-z_]+)\}`)

// values are the fields of a task by the names that templates use. A nil or
// empty one is left out of a body.
func values(t provider.Task) map[string]any {
	m := map[string]any{
		"model": t.Model, "prompt": t.Prompt, "negative_prompt": t.NegativePrompt, "duration": t.Duration, "duration_text": strconv.Itoa(t.Duration),
		"resolution": t.Resolution, "aspect_ratio": t.AspectRatio, "width": t.Width, "height": t.Height,
		"image_url": t.ImageURL, "end_image_url": t.EndImageURL, "video_url": t.VideoURL, "source_task": t.SourceTask, "audio": t.Audio, "watermark": t.Watermark,
		"callback_url": t.CallbackURL, "attempt_id": t.AttemptID, "job_id": t.JobID, "seed": nil,
	}
	if t.Seed != nil {
		m["seed"] = *t.Seed
	}
	return m
}

// fill replaces the fields in a tree; ok is false when the node is an empty
// field and its key is to go.
func fill(node any, vals map[string]any) (out any, ok bool) {
	switch n := node.(type) {
	case string:
		if m := field.FindStringSubmatch(n); m != nil && m[0] == n {
			v := vals[m[1]]
			return v, v != nil && v != ""
		}
		return field.ReplaceAllStringFunc(n, func(f string) string {
			if v := vals[f[1:len(f)-1]]; v != nil {
				return fmt.Sprint(v)
			}
			return ""
		}), true
	case map[string]any:
		m := map[string]any{}
		for k, v := range n {
			if v, ok := fill(v, vals); ok {
				m[k] = v
			}
		}
		return m, len(m) > 0 || len(n) == 0
	case []any:
		l := []any{}
		for _, v := range n {
			if v, ok := fill(v, vals); ok {
				l = append(l, v)
			}
		}
		return l, len(l) > 0 || len(n) == 0
	}
	return node, true
}

// fields are the names of all fields in a tree.
func fields(node any) iter.Seq[string] {
	return func(yield func(string) bool) { walk(node, yield) }
}

func walk(node any, yield func(string) bool) bool {
	switch n := node.(type) {
	case string:
		for _, m := range field.FindAllStringSubmatch(n, -1) {
			if !yield(m[1]) {
				return false
			}
		}
	case map[string]any:
		for _, v := range n {
			if !walk(v, yield) {
				return false
			}
		}
	case []any:
		for _, v := range n {
			if !walk(v, yield) {
				return false
			}
		}
	}
	return true
}

// at is what a document holds at a place such as "output.0.url"; nil for
// nothing.
func at(doc any, place string) any {
	if place == "" {
		return nil
	}
	for part := range strings.SplitSeq(place, ".") {
		switch n := doc.(type) {
		case map[string]any:
			doc = n[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(n) {
				return nil
			}
			doc = n[i]
		default:
			return nil
		}
	}
	return doc
}

// text is what a document holds at a place, when it is text or a number.
func text(doc any, place string) string {
	switch v := at(doc, place).(type) {
	case string:
		return v
	case fmt.Stringer: // json.Number
		return v.String()
	}
	return ""
}
