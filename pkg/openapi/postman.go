package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// parsed is what a collection needs to know of a document.
type parsed struct {
	Info    struct{ Title, Description string }
	Servers []struct{ URL string }
	Tags    []struct{ Name, Description string }
	Paths   map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Summary     string
		Description string
		Tags        []string
		Security    []object
		Parameters  []struct {
			In, Name, Description string
			Required              bool
			Example               any
		}
		RequestBody *struct {
			Content map[string]struct {
				Examples map[string]struct {
					Summary string
					Value   json.RawMessage
				}
			}
		} `json:"requestBody"`
	}
}

// Postman is a collection (version 2.1) of a document that Document made: a
// folder for each tag, and a request for each operation and each of its examples.
// Its variables are base_url and api_key.
func Postman(document []byte) ([]byte, error) {
	var doc parsed
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	folders := map[string][]object{}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			query, variables, header := []object{}, []object{}, []object{}
			var given []string
			for _, p := range op.Parameters {
				o := object{"key": p.Name, "value": "", "description": p.Description}
				if p.Example != nil {
					o["value"] = fmt.Sprint(p.Example)
				}
				if !p.Required {
					o["disabled"] = true
				}
				switch p.In {
				case "path":
					variables = append(variables, o)
				case "query":
					query = append(query, o)
					if p.Required {
						given = append(given, p.Name+"="+url.QueryEscape(fmt.Sprint(p.Example)))
					}
				case "header":
					header = append(header, o)
				}
			}
			raw := "{{base_url}}" + strings.ReplaceAll(strings.ReplaceAll(path, "{", ":"), "}", "")
			if len(given) > 0 {
				raw += "?" + strings.Join(given, "&")
			}
			segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
			for i, s := range segments {
				if strings.HasPrefix(s, "{") {
					segments[i] = ":" + strings.Trim(s, "{}")
				}
			}
			item := func(name string, body json.RawMessage) object {
				r := object{"method": strings.ToUpper(method), "description": op.Description, "header": header,
					"url": object{"raw": raw, "host": []string{"{{base_url}}"}, "path": segments, "query": query, "variable": variables}}
				if len(op.Security) == 0 {
					r["auth"] = object{"type": "noauth"}
				}
				if body != nil {
					text, _ := indented(body) // it was read as JSON
					r["header"] = append([]object{{"key": "Content-Type", "value": "application/json"}}, header...)
					r["body"] = object{"mode": "raw", "raw": strings.TrimSpace(string(text)), "options": object{"raw": object{"language": "json"}}}
				}
				return object{"name": name, "request": r, "response": []object{}}
			}
			tag := op.Tags[0]
			if op.RequestBody == nil {
				folders[tag] = append(folders[tag], item(op.Summary, nil))
				continue
			}
			examples := op.RequestBody.Content["application/json"].Examples
			for _, name := range slices.Sorted(maps.Keys(examples)) {
				folders[tag] = append(folders[tag], item(op.Summary+": "+examples[name].Summary, examples[name].Value))
			}
		}
	}
	items := []object{}
	for _, t := range doc.Tags {
		items = append(items, object{"name": t.Name, "description": t.Description, "item": folders[t.Name]})
	}
	return indented(object{
		"info": object{"name": doc.Info.Title, "description": doc.Info.Description, "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"},
		"auth": object{"type": "bearer", "bearer": []object{{"key": "token", "value": "{{api_key}}", "type": "string"}}},
		"item": items,
		"variable": []object{
			{"key": "base_url", "value": doc.Servers[0].URL, "type": "string"}, {"key": "api_key", "value": "", "type": "string"},
		},
	})
}
