package reelway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
)

type modelsImportCmd struct {
	URL    string `env:"REELWAY_ATLASCLOUD_URL" default:"https://api.atlascloud.ai" help:"Atlas Cloud's API, without a path." placeholder:"URL"`
	Key    string `env:"REELWAY_ATLASCLOUD_KEY" help:"An API key, sent with the request of the list; it works without one." placeholder:"KEY"`
	Out    string `help:"The file to write, put in place as a whole; standard output when left out." placeholder:"FILE" type:"path"`
	Markup int64  `help:"Percent on top of the listed price, which is a floor." placeholder:"N"`
}

// Validate refuses a markup that is none.
func (c *modelsImportCmd) Validate() error {
	if c.Markup < 0 || c.Markup > 10_000 {
		return errors.New("--markup must be 0 to 10000")
	}
	return nil
}

// Run writes an entry for each video model whose schema says that its inputs
// are those that requests have. What was left out, and why, is said at the end
// of the file.
func (c *modelsImportCmd) Run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	im := importer{base: strings.TrimRight(c.URL, "/"), key: c.Key, markup: c.Markup, today: time.Now().UTC().Format(time.DateOnly),
		client: &http.Client{Timeout: 30 * time.Second}}
	data, err := im.file(ctx)
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, err := out.Write(data)
		return err
	}
	// As a whole: a running Reelway may be reading it.
	tmp, err := os.CreateTemp(filepath.Dir(c.Out), ".models-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), c.Out)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	_, err = fmt.Fprintln(out, "written: "+c.Out)
	return err
}

// importer reads Atlas Cloud's list of models. Source of the shapes: its MCP
// client and skill files, read 2026-11.
type importer struct {
	base, key string
	markup    int64 // percent
	today     string
	client    *http.Client
}

// listed is one model of the list.
type listed struct {
	Model       string `json:"model"`
	Type        string `json:"type"`
	DisplayName string `json:"displayName"`
	Schema      string `json:"schema"`
	Shown       *bool  `json:"display_console"`
	Price       struct {
		Actual struct {
			BasePrice any `json:"base_price"` // USD for a second of the smallest video: text, sometimes a number
		} `json:"actual"`
	} `json:"price"`
}

// property is one input of a model's OpenAPI schema.
type property struct {
	Type      string `json:"type"`
	Enum      []any  `json:"enum"`
	Default   any    `json:"default"`
	Minimum   *int32 `json:"minimum"`
	Maximum   *int32 `json:"maximum"`
	MaxLength int    `json:"maxLength"`
}

type input struct {
	Required   []string            `json:"required"`
	Properties map[string]property `json:"properties"`
}

// file is the YAML of every model that can be used, proven to be free of faults.
func (im *importer) file(ctx context.Context) ([]byte, error) {
	var list struct {
		Data []listed `json:"data"`
	}
	if err := im.get(ctx, im.base+"/api/v1/models", im.key, &list); err != nil {
		return nil, fmt.Errorf("read the list of models: %w", err)
	}
	seen := map[string]bool{}
	list.Data = slices.DeleteFunc(list.Data, func(l listed) bool {
		drop := l.Type != "Video" || l.Shown != nil && !*l.Shown || seen[l.Model]
		seen[l.Model] = true
		return drop
	})
	if len(list.Data) == 0 {
		return nil, errors.New("the list holds no video models")
	}
	entries, reasons := make([]string, len(list.Data)), make([]error, len(list.Data))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, l := range list.Data {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			entries[i], reasons[i] = im.entry(ctx, l)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var b, left strings.Builder
	fmt.Fprintf(&b, `# Models of Atlas Cloud, from %s/api/v1/models on %s.
# The list names one floor price a second for each model; the resolutions above
# the smallest are priced by their pixels, with a markup of %d %%. What Atlas Cloud
# charges may be more: compare with its bill before this file is used.
`, im.base, im.today, im.markup)
	n := 0
	for i, e := range entries {
		if reasons[i] != nil {
			fmt.Fprintf(&left, "# %s: %s\n", line(list.Data[i].Model), line(reasons[i].Error()))
			continue
		}
		n++
		b.WriteString(e)
	}
	if n == 0 {
		return nil, fmt.Errorf("none of the %d video models can be used:\n%s", len(list.Data), left.String())
	}
	if left.Len() > 0 {
		b.WriteString("\n# Left out:\n" + left.String())
	}
	data := []byte(b.String())
	if _, err := catalog.Parse(data); err != nil {
		return nil, fmt.Errorf("the list makes entries with faults: %w", err)
	}
	return data, nil
}

// line keeps a stranger's text on one line of a comment.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// get reads a JSON document of at most 32 MiB.
func (im *importer) get(ctx context.Context, url, key string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := im.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", url, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 32<<20)).Decode(v); err != nil {
		return fmt.Errorf("%s is not the JSON that was expected: %w", url, err)
	}
	return nil
}

// sent are the inputs that the adapter always sends or can leave out.
var sent = []string{"model", "prompt", "image", "duration", "resolution", "aspect_ratio"}

// entry is one model's YAML; its error says why the model is left out.
func (im *importer) entry(ctx context.Context, l listed) (string, error) {
	task := l.Model[strings.LastIndex(l.Model, "/")+1:]
	if task != catalog.TextToVideo && task != catalog.ImageToVideo {
		return "", errors.New("its task cannot be asked for")
	}
	// The schemas lie elsewhere, so the key stays here.
	if !strings.HasPrefix(l.Schema, "https://") && !provider.SameOrigin(im.base, l.Schema) {
		return "", errors.New("it has no schema")
	}
	var doc struct {
		Components struct {
			Schemas struct{ Input input } `json:"schemas"`
		} `json:"components"`
	}
	if err := im.get(ctx, l.Schema, "", &doc); err != nil {
		return "", err
	}
	in := doc.Components.Schemas.Input
	has := func(name string) bool { _, ok := in.Properties[name]; return ok }
	for _, r := range in.Required {
		if !slices.Contains(sent, r) {
			return "", fmt.Errorf("it needs %s, which requests do not have", r)
		}
	}
	if !has("prompt") || task == catalog.ImageToVideo && !has("image") {
		return "", errors.New("its schema has no prompt or no image")
	}
	durations, err := in.Properties["duration"].durations()
	if err != nil {
		return "", err
	}
	resolutions := in.Properties["resolution"].resolutions()
	if len(resolutions) == 0 {
		return "", errors.New("its schema tells no resolution that is known here")
	}
	tasks := fmt.Sprintf("%s: %q", task, l.Model)
	if task == catalog.ImageToVideo && has("last_image") {
		tasks += fmt.Sprintf(", %s: %q", catalog.FramesToVideo, l.Model)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n- id: %q\n  provider: %s\n  name: %q\n  provider_models: {%s}\n  durations: [%s]\n  resolutions: [%s]\n  ratios: [%s]\n",
		l.Model, atlascloud.Name, line(first(l.DisplayName, l.Model)), tasks, durations, strings.Join(resolutions, ", "), in.ratios())
	audio, has1 := in.Properties["generate_audio"]
	flag := func(name string, on bool) {
		if on {
			fmt.Fprintf(&b, "  %s: true\n", name)
		}
	}
	flag("audio", has1)
	flag("audio_always", has1 && audio.Default == true) // it cannot be switched off
	flag("seed", has("seed"))
	flag("negative_prompt", has("negative_prompt"))
	if n := in.Properties["prompt"].MaxLength; n > 0 && n <= 10_000 {
		fmt.Fprintf(&b, "  prompt_characters: %d\n", n)
	}
	prices := im.prices(l.Price.Actual.BasePrice, resolutions)
	b.WriteString(prices)
	source := "Atlas Cloud's list, without a price"
	if prices != "" {
		source = fmt.Sprintf("Atlas Cloud's list: %v USD a second as the floor", l.Price.Actual.BasePrice)
	}
	fmt.Fprintf(&b, "  result_life: 336h\n  source: %q\n  source_date: %s\n", source, im.today)
	if strings.HasPrefix(im.base, "https://") {
		fmt.Fprintf(&b, "  source_url: %q\n", im.base+"/api/v1/models")
	}
	if _, err := catalog.Parse([]byte(b.String())); err != nil {
		return "", err
	}
	return b.String(), nil
}

// durations are a choice or a span of whole seconds, the default first.
func (p property) durations() (string, error) {
	var out []int32
	for _, v := range p.Enum {
		if n, ok := v.(float64); ok && n == float64(int32(n)) {
			out = append(out, int32(n))
		}
	}
	if len(p.Enum) == 0 && p.Minimum != nil && p.Maximum != nil {
		for n := *p.Minimum; n <= min(*p.Maximum, 120); n++ {
			out = append(out, n)
		}
	}
	out = slices.DeleteFunc(out, func(n int32) bool { return n < 1 || n > 120 })
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return "", errors.New("its schema tells no durations in whole seconds")
	}
	if d, ok := p.Default.(float64); ok && slices.Contains(out, int32(d)) {
		out = slices.Insert(slices.DeleteFunc(out, func(n int32) bool { return n == int32(d) }), 0, int32(d))
	}
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(out)), ", "), "[]"), nil
}

// resolutions are those that are known here, the smallest first.
func (p property) resolutions() []string {
	return slices.DeleteFunc(catalog.Resolutions(), func(r string) bool { return !slices.Contains(p.Enum, any(r)) })
}

// ratios are those that are numbers, quoted, the default first; one that follows
// an image, or is not told, is taken as 16:9.
func (in input) ratios() string {
	p := in.Properties["aspect_ratio"]
	var out []string
	for _, v := range append([]any{p.Default}, p.Enum...) {
		var w, h int
		s, _ := v.(string)
		if n, err := fmt.Sscanf(s, "%d:%d", &w, &h); n == 2 && err == nil && w > 0 && h > 0 && s == fmt.Sprintf("%d:%d", w, h) {
			if s = fmt.Sprintf("%q", s); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	if len(out) == 0 {
		return `"16:9"`
	}
	return strings.Join(out, ", ")
}

// prices are the listed one for the smallest resolution and, for the others, in
// proportion to their pixels, rounded up; none without a listed price.
func (im *importer) prices(base any, resolutions []string) string {
	text := fmt.Sprint(base)
	usd, ok := new(big.Rat).SetString(text)
	if !ok || usd.Sign() <= 0 || len(text) > 20 || strings.ContainsAny(text, "eE/") {
		return ""
	}
	side := func(r string) int64 {
		var n int64
		_, _ = fmt.Sscanf(r, "%dp", &n) // all that are known are such
		return n
	}
	var out []string
	for _, r := range resolutions {
		a, b := side(r), side(resolutions[0])
		p := new(big.Rat).Mul(usd, big.NewRat(1_000_000*a*a*(100+im.markup), 100*b*b))
		micros := new(big.Int).Add(p.Num(), new(big.Int).Sub(p.Denom(), big.NewInt(1)))
		micros.Div(micros, p.Denom())
		if !micros.IsInt64() {
			return ""
		}
		out = append(out, fmt.Sprintf("%s: {second: %d}", r, micros.Int64()))
	}
	return "  prices: {" + strings.Join(out, ", ") + "}\n"
}
