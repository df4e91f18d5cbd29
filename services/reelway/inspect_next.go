package reelway

import (
	"fmt"
	"time"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// nextStep is something that an operator may do about a job, and when it helps.
type nextStep struct{ why, command string }

// nextSteps is what an operator may do about a job as it stands; none where there
// is nothing to do.
func nextSteps(r *ledgerv1.InspectJobResponse, now time.Time) (steps []nextStep) {
	add := func(why, command string, args ...any) {
		steps = append(steps, nextStep{why, fmt.Sprintf("reelway "+command, args...)})
	}
	j := r.GetJob()
	limit := ""
	if j.GetDeadlineAt() != nil {
		limit = "; without one by " + when(j.GetDeadlineAt()) + " it goes to review"
	}
	switch j.GetState() {
	case videov1.VideoState_VIDEO_STATE_QUEUED:
		waitingSteps(r, now, add)
	case videov1.VideoState_VIDEO_STATE_SUBMITTING:
		if uncertain(r) {
			add("the provider's answer to the submit was lost: it is never submitted again by guess, but looked for until a verdict is there"+limit, "providers list")
		} else {
			add("the provider's answer to the submit is awaited"+limit, "providers list")
		}
	case videov1.VideoState_VIDEO_STATE_RUNNING:
		add("the provider works on it, and is polled until it gives a verdict"+limit, "providers list")
	case videov1.VideoState_VIDEO_STATE_STORING:
		add("the result is copied into the bucket, until "+when(j.GetDeadlineAt())+" at the longest: is the bucket well?", "doctor")
	case videov1.VideoState_VIDEO_STATE_SUCCEEDED:
		if j.GetCapturedMicros() > j.GetRefundedMicros() {
			add("to give back what it cost, whole or with --credits in part", "ledger refund --job %s --reason REASON", j.GetId())
		}
	case videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW:
		if v := r.GetReview(); v != nil && v.GetSettledAt() == nil {
			add("the provider goes on being asked; when its invoice has the task", "ledger settle-suspense --job %s --as billed --reason INVOICE", j.GetId())
			add("when it surely has not", "ledger settle-suspense --job %s --as not-billed --reason INVOICE", j.GetId())
		}
	}
	if j.GetCompletedAt() == nil && j.GetDeadlineAt() != nil && j.GetDeadlineAt().AsTime().Before(now) {
		add("its deadline has passed: the sweep ends it within a minute, unless it is in the way of something", "dead-letters list")
	}
	if unpaid(r) {
		add("its late task may be billed, and no customer pays for it: when the invoice has it", "ledger write-off --job %s --credits %s --reason INVOICE", j.GetId(), money.Format(j.GetQuoteMicros()))
	}
	deliverySteps(r, add)
	return steps
}

// waitingSteps are those about a job that is queued.
func waitingSteps(r *ledgerv1.InspectJobResponse, now time.Time, add func(why, command string, args ...any)) {
	j, w := r.GetJob(), r.GetWaiting()
	switch {
	case w.GetPause() != nil && w.GetPauseOfModel():
		add("an operator has paused its model there; when the reason is gone", "providers resume %s --model %s", j.GetProvider(), j.GetModel())
	case w.GetPause() != nil:
		add("an operator has paused its provider; when the reason is gone", "providers resume %s", j.GetProvider())
	case w.GetCircuit() == "open" || w.GetCircuit() == "half-open":
		add("submits of its model fail there; one that gets a proper answer closes the circuit", "providers list")
	case w.GetInQueue():
		add("it waits for room at its provider: rates, keys, and what runs", "providers list")
	case j.GetSubmitAfter().AsTime().After(now):
		add("it is submitted again at "+when(j.GetSubmitAfter()), "providers list")
	default:
		add("it is about to be submitted, as soon as a key of its provider has room", "providers list")
	}
}

// uncertain reports whether the outcome of the job's submit is unknown.
func uncertain(r *ledgerv1.InspectJobResponse) bool {
	for _, a := range r.GetAttempts() {
		if a.GetCurrent() {
			return a.GetState() == "uncertain"
		}
	}
	return false
}

// unpaid reports whether a provider has a task of an ended job which nobody waited
// for, and no cost of it was booked.
func unpaid(r *ledgerv1.InspectJobResponse) bool {
	if !r.GetJob().GetLateResult() || r.GetJob().GetCompletedAt() == nil || r.GetReview() != nil {
		return false
	}
	for _, p := range r.GetPostings() {
		if p.GetKind() == "write_off" {
			return false
		}
	}
	return true
}

// deliverySteps are those about webhooks that did not arrive.
func deliverySteps(r *ledgerv1.InspectJobResponse, add func(why, command string, args ...any)) {
	enabled := map[string]bool{}
	for _, d := range r.GetDeliveries() {
		x := d.GetDelivery()
		switch {
		case x.GetState() == webhookv1.DeliveryState_DELIVERY_STATE_PENDING && d.GetEndpointDisabledReason() != "":
			if !enabled[x.GetEndpointId()] {
				enabled[x.GetEndpointId()] = true
				add("its webhooks wait: the endpoint is disabled ("+d.GetEndpointDisabledReason()+"); when its owner agrees", "webhooks update %s --account %s --enable", x.GetEndpointId(), x.GetAccountId())
			}
		case x.GetState() == webhookv1.DeliveryState_DELIVERY_STATE_FAILED:
			add(x.GetType()+" was given up; when its endpoint is well again", "webhooks replay %s --account %s", x.GetId(), x.GetAccountId())
		}
	}
}
