package reelway

import (
	"context"
	"io"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type maintenanceCmd struct {
	On     maintenanceOnCmd     `cmd:"" help:"Refuse new videos from now on."`
	Off    maintenanceOffCmd    `cmd:"" help:"Take new videos again."`
	Status maintenanceStatusCmd `cmd:"" help:"Show whether new videos are refused, and how many jobs have not ended."`
}

type maintenanceOnCmd struct {
	admin
	Reason     string        `required:"" help:"Why. Callers read it."`
	RetryAfter time.Duration `default:"5m" help:"When callers are asked to come again." placeholder:"DURATION"`
}

// Run begins maintenance.
func (c *maintenanceOnCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.upkeep.StartMaintenance(ctx, &ledgerv1.StartMaintenanceRequest{Reason: c.Reason, RetryAfter: durationpb.New(c.RetryAfter)})
		if err != nil {
			return err
		}
		return c.answer(out, r, maintenanceRows(r.GetMaintenance())...)
	})
}

type maintenanceOffCmd struct{ admin }

// Run ends maintenance.
func (c *maintenanceOffCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.upkeep.EndMaintenance(ctx, &ledgerv1.EndMaintenanceRequest{})
		if err != nil {
			return err
		}
		return c.answer(out, r, maintenanceRows(nil)...)
	})
}

type maintenanceStatusCmd struct{ admin }

// Run shows how it stands.
func (c *maintenanceStatusCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.upkeep.GetMaintenance(ctx, &ledgerv1.GetMaintenanceRequest{})
		if err != nil {
			return err
		}
		return c.answer(out, r, append(maintenanceRows(r.GetMaintenance()), []string{"live jobs", strconv.FormatInt(r.GetLiveJobs(), 10)})...)
	})
}

func maintenanceRows(m *ledgerv1.Maintenance) [][]string {
	if m == nil {
		return [][]string{{"maintenance", "off"}}
	}
	return [][]string{{"maintenance", "on since " + when(m.GetSince())}, {"reason", oneLine(m.GetReason())}, {"retry after", m.GetRetryAfter().AsDuration().String()}}
}
