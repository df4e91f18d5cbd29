package reelway

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/money"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type modelsCmd struct {
	List   modelsListCmd   `cmd:"" help:"List the models that a running Reelway offers."`
	Check  modelsCheckCmd  `cmd:"" help:"Check files of models as a start would, without one."`
	Import modelsImportCmd `cmd:"" help:"Write a file of models from Atlas Cloud's list."`
}

type modelsListCmd struct{ admin }

// Run lists them in the catalogue's order.
func (c *modelsListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.video.ListModels(ctx, &videov1.ListModelsRequest{})
		if err != nil {
			return err
		}
		rows := [][]string{{"MODEL", "PROVIDER", "TASKS", "RESOLUTIONS", "PRICE"}}
		for _, m := range r.GetModels() {
			rows = append(rows, []string{m.GetId(), m.GetProvider(), strings.Join(m.GetTasks(), " "), strings.Join(m.GetResolutions(), " "), modelPrice(m)})
		}
		return c.answer(out, r, rows...)
	})
}

// modelPrice is the lowest price of a model, in words.
func modelPrice(m *videov1.Model) string {
	if !m.GetPriced() {
		return "none: refused"
	}
	return "from " + money.Format(m.GetPricePerSecondMicros()) + " a second"
}

type modelsCheckCmd struct {
	Files []string `arg:"" name:"file" help:"Files, or directories of them, in the order of REELWAY_MODELS_FILES."`
}

// Run checks the files, all faults at once.
func (c *modelsCheckCmd) Run(out io.Writer) error {
	models, err := catalog.Check(c.Files...)
	if err != nil {
		return err
	}
	unpriced := 0
	for _, m := range models {
		if !m.Priced() {
			unpriced++
		}
	}
	_, err = fmt.Fprintln(out, "no fault: "+strconv.Itoa(len(models))+" models with these files, "+strconv.Itoa(unpriced)+" of them without a price")
	return err
}
