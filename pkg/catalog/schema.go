package catalog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Bounds of an entry.
const (
	maxText     = 10_000        // characters of a prompt, as the door's
	maxCount    = 1_000_000     // requests and tasks
	maxSeconds  = 3600          // of a video
	maxAmount   = 1_000_000_000 // of one price, in millionths: 1,000 credits
	maxDuration = 30 * 24 * time.Hour
)

var (
	idPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$`)
	providerPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	datePattern     = regexp.MustCompile(`^20\d\d-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?$`)
	namePattern     = regexp.MustCompile(`^[!-~]{1,256}$`)
)

// entry is one model on its way through the checks: it knows where it stands.
type entry struct {
	Model
	file   string
	node   *yaml.Node
	lines  map[string]int  // by top field
	unread map[string]bool // top fields that hold something else than they should
	faults []lineFault
}

// lineFault is one fault and where it stands.
type lineFault struct {
	line int
	text string
}

// bad notes a fault of a field: "durations", "prices.720p.second". What could
// not be read is not said to be missing or inconsistent as well.
func (e *entry) bad(field, format string, a ...any) {
	top, _, _ := strings.Cut(field, ".")
	if !e.unread[top] {
		e.note(max(e.lines[top], e.node.Line), field, fmt.Sprintf(format, a...))
	}
}

// unreadable notes that a field holds something else than it should.
func (e *entry) unreadable(line int, field, format string, a ...any) {
	top, _, _ := strings.Cut(field, ".")
	e.unread[top] = true
	e.note(line, field, fmt.Sprintf(format, a...))
}

func (e *entry) note(line int, field, message string) {
	name := fmt.Sprintf("model %q", e.ID)
	if e.ID == "" {
		name = "a model without id"
	}
	e.faults = append(e.faults, lineFault{line, fmt.Sprintf("%s:%d: %s: %s: %s", e.file, line, name, field, message)})
}

// parse reads a YAML list of models and checks each; every fault is in the
// error, a line for each.
func parse(file string, data []byte) ([]Model, error) {
	entries, err := entries(file, data)
	if err != nil {
		return nil, err
	}
	var errs []error
	var models []Model
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.ID] && e.ID != "" {
			e.bad("id", "is there twice in this file")
		}
		seen[e.ID] = true
		if e.node.Kind == yaml.MappingNode {
			e.check()
		}
		slices.SortFunc(e.faults, func(a, b lineFault) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text)) })
		for _, f := range e.faults {
			errs = append(errs, errors.New(f.text))
		}
		if e.Name == "" {
			e.Name = e.ID
		}
		models = append(models, e.Model)
	}
	return models, errors.Join(errs...)
}

// entries reads the list without judging what it means.
func entries(file string, data []byte) ([]*entry, error) {
	var doc, next yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is not YAML: %w", file, err)
	}
	// Two files that were put together: the second's models would be left out.
	if err := dec.Decode(&next); err == nil {
		return nil, fmt.Errorf("%s:%d: another document begins, after a line of three dashes; a file is one list", file, next.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is not YAML: %w", file, err)
	}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s: is empty; write [] for no models", file)
	}
	list := doc.Content[0]
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s:%d: must be a list of models, each beginning with a dash", file, list.Line)
	}
	var out []*entry
	for _, n := range list.Content {
		e := &entry{file: file, node: n, lines: map[string]int{}, unread: map[string]bool{}}
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			e.lines[key.Value] = key.Line
			if key.Value == "id" {
				e.ID = value.Value // known from here on: every fault names it
			}
		}
		e.decode(n, reflect.ValueOf(&e.Model).Elem(), "")
		out = append(out, e)
	}
	return out, nil
}

// decode fills v from n, field by field, so that every fault has its place.
func (e *entry) decode(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	elem := v.Type()
	if elem.Kind() == reflect.Map {
		elem = elem.Elem()
	}
	if elem.Kind() != reflect.Struct {
		if err := n.Decode(v.Addr().Interface()); err != nil {
			v.SetZero()
			why := ""
			if strings.Contains(err.Error(), "already defined") {
				why = ", each key once"
			}
			e.unreadable(n.Line, path, "must be %s%s", describe(v.Type()), why)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		e.unreadable(n.Line, first(path, "entry"), "must be fields with values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		switch field := fieldOf(v, key.Value); {
		case seen[key.Value]:
			e.unreadable(key.Line, at, "is there twice")
		case v.Kind() == reflect.Map:
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			x := reflect.New(elem).Elem()
			e.decode(value, x, at)
			v.SetMapIndex(reflect.ValueOf(key.Value), x)
		case !field.IsValid():
			e.unreadable(key.Line, at, "is not a field here; the fields are %s", strings.Join(fieldsOf(v.Type()), ", "))
		default:
			e.decode(value, field, at)
		}
		seen[key.Value] = true
	}
}

// fieldOf is the field of a struct with a tag; invalid when there is none.
func fieldOf(v reflect.Value, tag string) reflect.Value {
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") == tag {
				return v.Field(i)
			}
		}
	}
	return reflect.Value{}
}

func fieldsOf(t reflect.Type) (out []string) {
	for i := range t.NumField() {
		out = append(out, t.Field(i).Tag.Get("yaml"))
	}
	return out
}

// describe is a field's kind of value in words.
func describe(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "a length of time such as 90s"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of texts"
		}
		return "a list of whole numbers"
	case reflect.Map:
		return "fields with " + strings.Replace(describe(t.Elem()), "a ", "a value each: a ", 1)
	}
	return "a text"
}

// check proves that the entry is consistent.
func (e *entry) check() {
	if !idPattern.MatchString(e.ID) {
		e.bad("id", "must be 1 to 128 letters, digits, dots, dashes, underscores, colons and slashes")
	}
	if e.Disabled {
		return // nothing else counts
	}
	if !providerPattern.MatchString(e.Provider) {
		e.bad("provider", "is required: lower-case letters, digits and dashes")
	}
	if e.Source == "" {
		e.bad("source", "is required: where the entry comes from, in words")
	}
	if !datePattern.MatchString(e.SourceDate) {
		e.bad("source_date", "is required: YYYY-MM or YYYY-MM-DD")
	}
	if u, err := url.Parse(e.SourceURL); e.SourceURL != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		e.bad("source_url", "must be an https URL")
	}
	e.checkShapes()
	e.checkExtras()
	if !e.unread["resolutions"] && !e.unread["durations"] && !e.unread["durations_at"] && !e.unread["sources"] {
		e.checkPrices("prices", e.Prices, e.plainDurations)
		e.checkPrices("costs", e.Costs, e.plainDurations)
		e.checkSources()
	}
}

func (e *entry) checkShapes() {
	if len(e.tasks()) == 0 {
		e.bad("provider_models", "is required: the provider's name of the model by task; the tasks are %s", strings.Join(Tasks(), ", "))
	}
	for t, name := range e.ProviderModels {
		if !slices.Contains(Tasks(), t) {
			e.bad("provider_models."+t, "is not a task that requests can express; the tasks are %s", strings.Join(Tasks(), ", "))
		} else if !namePattern.MatchString(name) {
			e.bad("provider_models."+t, "must be the provider's name of the model, 1 to 256 characters without spaces")
		}
	}
	if len(e.Resolutions) == 0 {
		e.bad("resolutions", "is required")
	}
	for i, r := range e.Resolutions {
		if shortSide[r] == 0 {
			e.bad("resolutions", "%q is not known; use %s", r, strings.Join(Resolutions(), ", "))
		}
		if slices.Contains(e.Resolutions[:i], r) {
			e.bad("resolutions", "%s is there twice", r)
		}
	}
	if len(e.Ratios) == 0 {
		e.bad("ratios", "is required")
	}
	for i, r := range e.Ratios {
		if w, h := pixels("720p", r); w == 0 || h == 0 {
			e.bad("ratios", "%q must be WIDTH:HEIGHT, such as 16:9", r)
		}
		if slices.Contains(e.Ratios[:i], r) {
			e.bad("ratios", "%s is there twice", r)
		}
	}
	if len(e.Durations) > 0 || slices.ContainsFunc(e.tasks(), func(t string) bool { return !e.Sources[t].SameLength && e.Sources[t].Durations == nil }) || len(e.tasks()) == 0 {
		e.checkDurations("durations", e.Durations, nil)
	}
	for r, ds := range e.DurationsAt {
		if !slices.Contains(e.Resolutions, r) {
			e.bad("durations_at."+r, "is not one of its resolutions")
		}
		e.checkDurations("durations_at."+r, ds, e.Durations)
	}
	for t, rs := range e.TaskResolutions {
		if e.ProviderModels[t] == "" {
			e.bad("task_resolutions."+t, "is not one of its tasks")
		}
		if len(rs) == 0 || slices.ContainsFunc(rs, func(r string) bool { return !slices.Contains(e.Resolutions, r) }) {
			e.bad("task_resolutions."+t, "must be some of its resolutions")
		}
	}
}

// checkDurations checks a list of durations, which must be some of those within.
func (e *entry) checkDurations(field string, ds, within []int32) {
	if len(ds) == 0 {
		e.bad(field, "is required: whole seconds, the default first")
	}
	for i, d := range ds {
		switch {
		case d < 1 || d > maxSeconds:
			e.bad(field, "%d must be 1 to %d seconds", d, maxSeconds)
		case slices.Contains(ds[:i], d):
			e.bad(field, "%d is there twice", d)
		case within != nil && !slices.Contains(within, d):
			e.bad(field, "%d is not one of its durations", d)
		}
	}
}

func (e *entry) checkExtras() {
	if e.AudioAlways && !e.Audio {
		e.bad("audio_always", "needs audio: true")
	}
	for k, v := range e.Provenance {
		if !slices.Contains([]string{"synthid", "c2pa", "visible"}, k) {
			e.bad("provenance."+k, "is not known; use synthid, c2pa or visible")
		} else if !slices.Contains([]string{"always", "optional", "removable"}, v) {
			e.bad("provenance."+k, "%q must be always, optional or removable", v)
		}
	}
	for _, n := range []struct {
		field       string
		value, most int
	}{{"prompt_characters", e.PromptCharacters, maxText}, {"negative_prompt_characters", e.NegativePromptCharacters, maxText},
		{"requests_per_minute", e.RequestsPerMinute, maxCount}, {"concurrent_tasks", e.ConcurrentTasks, maxCount}} {
		if n.value < 0 || n.value > n.most {
			e.bad(n.field, "must be 0 to %d", n.most)
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"typical_time", e.TypicalTime}, {"max_time", e.MaxTime}, {"result_life", e.ResultLife}} {
		if d.value < 0 || d.value > maxDuration {
			e.bad(d.field, "must be 0s to %s", maxDuration)
		}
	}
	if e.MaxTime > 0 && e.TypicalTime > e.MaxTime {
		e.bad("typical_time", "must not be above max_time")
	}
	if e.OnUncertain != "" && e.OnUncertain != Wait && e.OnUncertain != Resubmit {
		e.bad("on_uncertain", "%q must be %s or %s", e.OnUncertain, Wait, Resubmit)
	}
}

// checkPrices proves that prices fit the entry and, once there is one, that no
// shape of it is left without.
func (e *entry) checkPrices(field string, prices map[string]Price, durations func(resolution string) []int32) {
	for r, p := range prices {
		at := field + "." + r
		if !slices.Contains(e.Resolutions, r) {
			e.bad(at, "is not one of its resolutions")
			continue
		}
		if !e.Audio && (p.SecondWithAudio != 0 || p.ClipWithAudio != nil) {
			e.bad(at, "has a price with sound, which the model does not make")
		}
		amounts := map[string]int64{"second": p.Second, "second_with_audio": p.SecondWithAudio}
		for name, clips := range map[string]map[int32]int64{"clip": p.Clip, "clip_with_audio": p.ClipWithAudio} {
			for d, amount := range clips {
				if !slices.Contains(durations(r), d) {
					e.bad(at+"."+name, "%d is not one of its durations at %s", d, r)
				}
				if amount == 0 {
					e.bad(at+"."+name, "%d must be 1 to %d millionths", d, maxAmount)
				}
				amounts[fmt.Sprintf("%s.%d", name, d)] = amount
			}
		}
		for name, amount := range amounts {
			if amount < 0 || amount > maxAmount {
				e.bad(at+"."+name, "must be 1 to %d millionths", maxAmount)
			}
		}
		for _, d := range durations(r) {
			if unit, _, _ := p.of(d, false); unit == 0 {
				e.bad(at, "has no price for %d seconds", d)
			}
			if len(p.ClipWithAudio) > 0 && p.ClipWithAudio[d] == 0 && p.SecondWithAudio == 0 {
				e.bad(at, "has no price with sound for %d seconds", d)
			}
		}
	}
	if len(prices) > 0 {
		for _, r := range e.Resolutions {
			if _, ok := prices[r]; !ok {
				e.bad(field, "leaves out %s: name every resolution, or none", r)
			}
		}
	}
}

// Resolutions lists all that an entry may name, the smallest first.
func Resolutions() []string {
	return slices.SortedFunc(maps.Keys(shortSide), func(a, b string) int { return int(shortSide[a] - shortSide[b]) })
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
