package run

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Setting is one configuration variable, for --help and the docs.
type Setting struct{ Name, Default, Description string }

// Settings lists the variables of configuration structs, whose fields carry
// the tags env, envDefault and desc.
func Settings(configs ...any) []Setting {
	var out []Setting
	seen := map[string]bool{}
	for _, c := range configs {
		t := reflect.TypeOf(c)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		for i := range t.NumField() {
			f := t.Field(i)
			if name := f.Tag.Get("env"); name != "" && !seen[name] {
				seen[name] = true
				out = append(out, Setting{name, f.Tag.Get("envDefault"), f.Tag.Get("desc")})
			}
		}
	}
	slices.SortFunc(out, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Load fills configuration structs from the environment. NAME_FILE names a
// file that holds the value of NAME, for mounted secrets. An unknown REELWAY_
// variable is refused: it is a typing error, or a setting of another version.
// All faults are reported at once. also lists known names that are read
// elsewhere.
func Load(environ []string, also []string, configs ...any) error {
	values := env.ToMap(environ)
	known := map[string]bool{}
	for _, s := range Settings(configs...) {
		known[s.Name] = true
	}
	for _, n := range also {
		known[n] = true
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		base, file := strings.CutSuffix(name, "_FILE")
		switch {
		case !strings.HasPrefix(name, "REELWAY_") || known[name]:
		case file && known[base]:
			data, err := os.ReadFile(values[name])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				continue
			}
			values[base] = strings.TrimRight(string(data), "\r\n")
		default:
			errs = append(errs, fmt.Errorf("%s: no such setting; --help lists them", name))
		}
	}
	for _, c := range configs {
		faults := named(reflect.TypeOf(c).Elem(), env.ParseWithOptions(c, env.Options{Environment: values}))
		if errors.Join(faults...) == nil {
			faults = judge(reflect.ValueOf(c).Elem())
		}
		errs = append(errs, faults...)
	}
	return errors.Join(errs...)
}

// judge checks the values of a configuration by its tags: min:"1" or min:"1ms"
// and max for numbers and durations, oneof:"a b" for words, and url:"true" for
// an absolute http or https URL, or none.
func judge(v reflect.Value) (out []error) {
	for i := range v.NumField() {
		f, x := v.Type().Field(i), v.Field(i)
		name := f.Tag.Get("env")
		refuse := func(format string, a ...any) { out = append(out, fmt.Errorf(name+": "+format, a...)) }
		if x.CanFloat() && (math.IsNaN(x.Float()) || math.IsInf(x.Float(), 0)) {
			refuse("%v is not a number", x.Interface())
		} else if limit, ok := bound(f, "min"); ok && number(x) < limit {
			refuse("%v is below %s", x.Interface(), f.Tag.Get("min"))
		}
		if limit, ok := bound(f, "max"); ok && number(x) > limit {
			refuse("%v is above %s", x.Interface(), f.Tag.Get("max"))
		}
		if words := strings.Fields(f.Tag.Get("oneof")); len(words) > 0 && !slices.Contains(words, x.String()) {
			refuse("%q is not one of %s", x.String(), strings.Join(words, ", "))
		}
		if f.Tag.Get("url") != "" && x.String() != "" {
			if u, err := url.Parse(x.String()); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				refuse("it is not an absolute http or https URL") // and not repeated: it may hold a password
			}
		}
	}
	return out
}

// bound is the number of a tag; a duration counts its nanoseconds.
func bound(f reflect.StructField, tag string) (float64, bool) {
	s, ok := f.Tag.Lookup(tag)
	if !ok {
		return 0, false
	}
	if d, err := time.ParseDuration(s); err == nil && f.Type == reflect.TypeFor[time.Duration]() {
		return float64(d), true
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic("run: bad tag of " + f.Name) // a programming error, seen at every start
	}
	return n, true
}

func number(x reflect.Value) float64 {
	if x.CanFloat() {
		return x.Float()
	}
	return float64(x.Int())
}

// named turns the parser's errors, which name fields, into ones that name
// variables.
func named(t reflect.Type, err error) (out []error) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err} // nil too: Join leaves it out
	}
	for _, e := range all.Errors {
		var p env.ParseError
		if errors.As(e, &p) {
			if f, ok := t.FieldByName(p.Name); ok {
				e = fmt.Errorf("%s: %w", f.Tag.Get("env"), p.Err)
			}
		}
		out = append(out, e)
	}
	return out
}
