package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// object is a JSON object. Its names are sorted when it is written, so that the
// same table gives the same bytes.
type object = map[string]any

// schemas are the components of a document, by name.
type schemas struct {
	made object
	of   map[string]reflect.Type
	errs []error
}

func (s *schemas) fail(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

// value is the schema of v's type. Of a request no field has to be there unless
// the type says so, and an unknown one is refused; of an answer every field is
// there that encoding/json does not omit, and more may come in later versions.
func (s *schemas) value(v any, request bool) object { return s.schema(reflect.TypeOf(v), request) }

func (s *schemas) schema(t reflect.Type, request bool) object {
	if d, ok := reflect.Zero(t).Interface().(Described); ok && t.Kind() != reflect.Pointer {
		if text := d.OpenAPI().JSON; text != "" {
			return s.parse(text)
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return nullable(s.schema(t.Elem(), request))
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int32:
		return object{"type": "integer", "format": "int32"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Slice:
		return object{"type": "array", "items": s.schema(t.Elem(), request)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.schema(t.Elem(), request)}
	case reflect.Struct:
		return s.component(t, request)
	}
	s.fail("%s: there is no schema for a %s", t, t.Kind())
	return object{}
}

func (s *schemas) parse(text string) (o object) {
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		s.fail("schema %s: %w", text, err)
	}
	return o
}

func nullable(o object) object {
	if name, ok := o["type"].(string); ok {
		o["type"] = []string{name, "null"}
		return o
	}
	return object{"anyOf": []any{o, object{"type": "null"}}}
}

// component is a reference to the schema of a struct, which is made at first.
func (s *schemas) component(t reflect.Type, request bool) object {
	var about Schema
	if d, ok := reflect.Zero(t).Interface().(Described); ok {
		about = d.OpenAPI()
	}
	name := about.Name
	if name == "" {
		name = strings.TrimSuffix(t.Name(), "Object")
		name = strings.ToUpper(name[:1]) + name[1:]
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if other, ok := s.of[name]; ok {
		if other != t {
			s.fail("%s and %s would both be called %s", other, t, name)
		}
		return ref
	}
	s.of[name] = t
	properties, required := object{}, slices.Clone(about.Needed)
	for _, f := range reflect.VisibleFields(t) {
		field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || field == "-" || field == "" {
			continue
		}
		omitted := strings.Contains(options, "omitempty")
		note, noted := about.Fields[field]
		if request && !noted {
			s.fail("%s.%s: a request's field needs a note", t, field)
		}
		ft := f.Type
		if omitted && ft.Kind() == reflect.Pointer {
			ft = ft.Elem() // left out, and never null
		}
		if ft.Kind() == reflect.Struct && ft.NumField() == 0 {
			continue // it hides a field of what is embedded
		}
		var o object
		if len(note.Of) > 0 {
			o = s.either(note.Of, request)
		} else {
			o = s.schema(ft, request)
		}
		if note.Text != "" {
			o["description"] = note.Text
		}
		if len(note.Enum) > 0 {
			enumerate(o, note.Enum)
		}
		properties[field] = o
		if !request && !omitted {
			required = append(required, field)
		}
	}
	for field := range about.Fields {
		if properties[field] == nil {
			s.fail("%s: a note on %s, which is no field", t, field)
		}
	}
	made := object{"type": "object", "properties": properties}
	if about.Text != "" {
		made["description"] = about.Text
	}
	if len(required) > 0 {
		slices.Sort(required)
		made["required"] = required
	}
	if request {
		made["additionalProperties"] = false
	}
	s.made[name] = made
	return ref
}

// either is the schema of a value of one of some types.
func (s *schemas) either(of []any, request bool) object {
	if len(of) == 1 {
		return s.value(of[0], request)
	}
	var out []any
	for _, v := range of {
		out = append(out, s.value(v, request))
	}
	return object{"anyOf": out}
}

// enumerate says which words a field takes; of a list, its items.
func enumerate(o object, words []string) {
	if items, ok := o["items"].(object); ok {
		o = items
	}
	o["enum"] = words
	if kinds, ok := o["type"].([]string); ok && slices.Contains(kinds, "null") {
		all := []any{nil}
		for _, w := range words {
			all = append(all, w)
		}
		o["enum"] = all
	}
}
