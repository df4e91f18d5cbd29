package notifier

import (
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// notice is a notice to an account as watchers get it. Amounts are decimal
// credits and micro-credits, as everywhere.
type notice struct {
	Kind       string         `json:"kind"` // budget, paused, webhook_disabled
	Text       string         `json:"text"`
	OccurredAt int64          `json:"occurred_at"`
	Budget     *budgetNotice  `json:"budget,omitempty"`
	Paused     *pausedNotice  `json:"paused,omitempty"`
	Webhook    *webhookNotice `json:"webhook,omitempty"`
}

type budgetNotice struct {
	ID          string `json:"id"`
	Subject     string `json:"subject"` // account, api_key, end_user, model
	SubjectID   string `json:"subject_id,omitempty"`
	Period      string `json:"period"` // day, week, month, total
	Hard        bool   `json:"hard"`
	Percent     int32  `json:"percent"` // 50, 80, 100
	Limit       string `json:"limit"`
	Spent       string `json:"spent"`
	Held        string `json:"held"`
	LimitMicros int64  `json:"limit_micros"`
	SpentMicros int64  `json:"spent_micros"`
	HeldMicros  int64  `json:"held_micros"`
	ResetsAt    *int64 `json:"resets_at"`
}

type pausedNotice struct {
	Hour        string `json:"hour"`
	Limit       string `json:"limit"`
	HourMicros  int64  `json:"hour_micros"`
	LimitMicros int64  `json:"limit_micros"`
	UsualMicros *int64 `json:"usual_micros"`
}

type webhookNotice struct {
	EndpointID   string `json:"endpoint_id"`
	Reason       string `json:"reason"` // gone, failing
	FailingSince *int64 `json:"failing_since"`
}

func noticeOf(n *eventv1.AccountNotice) *notice {
	out := &notice{Text: n.GetText(), OccurredAt: n.GetOccurredAt().GetSeconds()}
	switch about := n.GetAbout().(type) {
	case *eventv1.AccountNotice_Budget:
		b := about.Budget
		out.Kind = "budget"
		out.Budget = &budgetNotice{ID: b.GetBudgetId(), Subject: b.GetSubject(), SubjectID: b.GetSubjectId(), Period: b.GetPeriod(), Hard: b.GetHard(), Percent: b.GetPercent(),
			Limit: money.Format(b.GetLimitMicros()), Spent: money.Format(b.GetSpentMicros()), Held: money.Format(b.GetHeldMicros()),
			LimitMicros: b.GetLimitMicros(), SpentMicros: b.GetSpentMicros(), HeldMicros: b.GetHeldMicros()}
		if b.GetResetsAt() != nil {
			at := b.GetResetsAt().GetSeconds()
			out.Budget.ResetsAt = &at
		}
	case *eventv1.AccountNotice_Paused:
		p := about.Paused
		out.Kind = "paused"
		out.Paused = &pausedNotice{Hour: money.Format(p.GetHourMicros()), Limit: money.Format(p.GetLimitMicros()),
			HourMicros: p.GetHourMicros(), LimitMicros: p.GetLimitMicros(), UsualMicros: p.UsualMicros}
	case *eventv1.AccountNotice_Webhook:
		out.Kind, out.Webhook = "webhook_disabled", &webhookNotice{EndpointID: about.Webhook.GetEndpointId(), Reason: about.Webhook.GetReason()}
		if t := about.Webhook.GetFailingSince(); t != nil {
			at := t.GetSeconds()
			out.Webhook.FailingSince = &at
		}
	}
	return out
}
