package reelway

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type providersCmd struct {
	List      providerListCmd   `cmd:"" help:"Show each provider with its keys and models."`
	Pause     providerPauseCmd  `cmd:"" help:"Submit nothing new to a provider, or of one of its models; what runs goes on."`
	Resume    providerResumeCmd `cmd:"" help:"End a pause."`
	Reconcile reconcileCmd      `cmd:"" help:"Match a provider's invoice or usage export with the tasks that we know. Exit code 1 when something differs."`
	Test      certifyCmd        `cmd:"" help:"Certify an adapter, built in or described in a file, by the suite that every adapter passes. Exit code 1 when a check fails."`
}

type providerListCmd struct{ admin }

// Run shows how the providers stand.
func (c *providerListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.providers.ListProviders(ctx, &ledgerv1.ListProvidersRequest{})
		if err != nil {
			return err
		}
		var rows [][]string
		for _, p := range r.GetProviders() {
			rows = append(rows, []string{p.GetName(), "running " + of(p.GetRunning(), p.GetMaxRunning()), "at most " + perSecond(p.GetRate()), pause(p.GetPause())})
			for _, k := range p.GetKeys() {
				rows = append(rows, []string{"", "key " + k.GetId(), keyState(k), "running " + of(k.GetRunning(), k.GetMaxRunning()), "weight " + strconv.Itoa(int(k.GetWeight())), spent(k)})
			}
			for _, m := range p.GetModels() {
				rows = append(rows, []string{"", "model " + m.GetModel(), circuit(m), "running " + strconv.Itoa(int(m.GetRunning())), health(m), slowed(m), pause(m.GetPause())})
			}
		}
		return c.answer(out, r, rows...)
	})
}

// of is a number and what it may be at the most.
func of(n, most int32) string {
	if most == 0 {
		return strconv.Itoa(int(n))
	}
	return fmt.Sprintf("%d of %d", n, most)
}

func perSecond(r float64) string { return strconv.FormatFloat(r, 'g', 3, 64) + "/s" }

func keyState(k *ledgerv1.ProviderKey) string {
	if k.GetState() == "benched" {
		return "benched until " + when(k.GetBenchedUntil()) + ": " + k.GetReason()
	}
	text := k.GetState()
	for _, c := range k.GetClosed() {
		text += ", not for " + c.GetModel() + " until " + when(c.GetUntil()) + ": " + c.GetReason()
	}
	return text
}

func spent(k *ledgerv1.ProviderKey) string {
	text := "spent today " + money.Format(k.GetSpentTodayMicros())
	if k.GetDailyBudgetMicros() > 0 {
		text += " of " + money.Format(k.GetDailyBudgetMicros())
	}
	return text
}

func circuit(m *ledgerv1.ProviderModel) string {
	text := "circuit " + m.GetBreaker()
	if m.GetOpenUntil() != nil {
		text += " until " + when(m.GetOpenUntil())
	}
	if m.GetReason() != "" {
		text += ": " + m.GetReason()
	}
	return text
}

func health(m *ledgerv1.ProviderModel) string {
	n := m.GetSucceeded() + m.GetFailed()
	if n == 0 {
		return "nothing submitted lately"
	}
	return fmt.Sprintf("%d %% of %d well, %s each", 100*m.GetSucceeded()/n, n, time.Duration(m.GetMeanMs())*time.Millisecond)
}

func slowed(m *ledgerv1.ProviderModel) string {
	if m.GetSlowedRate() == 0 {
		return ""
	}
	return "slowed to " + perSecond(m.GetSlowedRate())
}
