package main

import "fmt"

// quantiles are the median and the 99th of a histogram, by a label.
func quantiles(histogram, by string) []query {
	var out []query
	for _, q := range []int{50, 99} {
		out = append(out, query{fmt.Sprintf("histogram_quantile(%g, sum by (le, %s) (rate(%s_bucket[$__rate_interval])))", float64(q)/100, by, histogram), fmt.Sprintf("p%d {{%s}}", q, by)})
	}
	return out
}

// each is a rate of a counter by a label.
func each(counter, by string) []query {
	return []query{{fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", by, counter), "{{" + by + "}}"}}
}

// most is the largest that any replica shows: of gauges that all of them share.
func most(gauge, by string) []query {
	return []query{{fmt.Sprintf("max by (%s) (%s)", by, gauge), "{{" + by + "}}"}}
}

func one(expr string) []query { return []query{{expr, ""}} }

func boards() []board {
	return []board{overview(), providers(), money(), delivery(), bus()}
}

func overview() board {
	return board{"overview", "Reelway: overview", "Whether the promises hold, and how much there is to do.", []row{
		{"Promises", []panel{
			{title: "Accepted, 30 minutes", about: "SLO 99.9 %", unit: "percentunit", single: true, queries: one("1 - reelway:accept_errors:ratio_rate30m")},
			{title: "Webhook to watcher under 2 s, 30 minutes", about: "SLO 99 %", unit: "percentunit", single: true, queries: one("1 - reelway:push_late:ratio_rate30m")},
			{title: "Lost jobs", about: "past every time-out", unit: "short", single: true, bad: 1, queries: one("max(reelway_ledger_jobs_overdue)")},
			{title: "Dead letters", unit: "short", single: true, bad: 1, queries: one(`max(reelway_bus_stream_messages{stream="DEAD"})`)},
			{title: "Broken invariants", unit: "short", single: true, bad: 1, queries: one("max(reelway_ledger_reconcile_violations)")},
			{title: "Pods that are not ready", unit: "short", single: true, bad: 1, queries: one("count(reelway_ready == 0) or vector(0)")},
		}},
		{"Requests", []panel{
			{title: "Requests by route", unit: "reqps", queries: each("http_server_request_duration_seconds_count", "http_route")},
			{title: "Answers by status", unit: "reqps", queries: each("http_server_request_duration_seconds_count", "http_response_status_code")},
			{title: "Time to answer by route", unit: "s", queries: quantiles("http_server_request_duration_seconds", "http_route")},
		}},
		{"Jobs", []panel{
			{title: "Live jobs by state", unit: "short", queries: most("reelway_ledger_jobs", "state")},
			{title: "Jobs that ended", unit: "ops", queries: each("reelway_job_ended_total", "state")},
			{title: "Acceptance to end", unit: "s", queries: quantiles("reelway_job_duration_seconds", "state")},
		}},
		{"gRPC and database", []panel{
			{title: "gRPC calls by method", unit: "reqps", queries: each("rpc_server_call_duration_seconds_count", "rpc_method")},
			{title: "gRPC latency", unit: "s", queries: quantiles("rpc_server_call_duration_seconds", "rpc_method")},
			{title: "Statements", unit: "s", queries: quantiles("db_client_operation_duration_seconds", "pgx_operation_type")},
			{title: "Connections of the ledger", unit: "short", queries: []query{{"sum by (state) (reelway_ledger_pool_connections)", "{{state}}"}}},
		}},
		{"Processes", []panel{
			{title: "Memory", unit: "bytes", queries: []query{{"process_resident_memory_bytes", "{{job}} {{instance}}"}}},
			{title: "CPU", unit: "short", queries: []query{{"rate(process_cpu_seconds_total[$__rate_interval])", "{{job}} {{instance}}"}}},
			{title: "Goroutines", unit: "short", queries: []query{{"go_goroutines", "{{job}} {{instance}}"}}},
		}},
	}}
}

func providers() board {
	return board{"providers", "Reelway: providers", "How each provider and model does.", []row{
		{"State", []panel{
			{title: "Circuits", about: "0 closed, 1 half-open, 2 open", unit: "short", queries: []query{{"max by (provider, model) (reelway_dispatcher_circuit)", "{{provider}} {{model}}"}}},
			{title: "Health", about: "submits of ten minutes that got a proper answer", unit: "percentunit", queries: []query{{"min by (provider, model) (reelway_dispatcher_health_ratio)", "{{provider}} {{model}}"}}},
			{title: "Keys at rest", unit: "short", queries: []query{{"max by (provider, key) (reelway_dispatcher_key_benched)", "{{provider}} {{key}}"}}},
		}},
		{"Submits", []panel{
			{title: "Latency of submits", unit: "s", queries: quantiles("reelway_dispatcher_submit_duration_seconds", "provider")},
			{title: "Outcomes", about: "refusals by their code", unit: "ops", queries: each("reelway_dispatcher_submit_duration_seconds_count", "outcome")},
			{title: "Attempts", about: "again: retries and fallbacks", unit: "ops", queries: each("reelway_job_attempts_total", "try")},
			{title: "Waits by reason", unit: "ops", queries: each("reelway_dispatcher_held_total", "reason")},
		}},
		{"Renders", []panel{
			{title: "Time in the queue", unit: "s", queries: quantiles("reelway_job_queue_duration_seconds", "model")},
			{title: "Time to first progress", unit: "s", queries: quantiles("reelway_job_first_progress_duration_seconds", "model")},
			{title: "Time of generation", unit: "s", queries: quantiles("reelway_job_generation_duration_seconds", "model")},
		}},
		{"Ends", []panel{
			{title: "Success", about: "of jobs that were not canceled", unit: "percentunit", queries: []query{{`sum by (provider) (rate(reelway_job_ended_total{state="succeeded"}[30m])) / sum by (provider) (rate(reelway_job_ended_total{state!="canceled"}[30m]))`, "{{provider}}"}}},
			{title: "Failures by code", unit: "ops", queries: each(`reelway_job_ended_total{state!="succeeded"}`, "code")},
			{title: "Fallbacks", unit: "ops", queries: each("reelway_ledger_fallbacks_total", "provider")},
		}},
		{"Webhooks and the watchdog", []panel{
			{title: "Callbacks", unit: "ops", queries: each("reelway_callback_received_total", "result")},
			{title: "Trust in webhooks", unit: "percent", queries: most("reelway_ledger_webhook_trust_percent", "provider")},
			{title: "Polls", unit: "ops", queries: each("reelway_dispatcher_polls_total", "result")},
			{title: "Verdicts that the watchdog saved", about: "told by a poll first", unit: "ops", queries: each(`reelway_ledger_observations_total{source="poll", verdict="applied", fact=~"rendered|failed"}`, "fact")},
		}},
	}}
}

func money() board {
	return board{"money", "Reelway: money", "What is spent and held, and whether the books are right. Micro-credits divided by a million are credits.", []row{
		{"Books", []panel{
			{title: "Broken invariants", unit: "short", single: true, bad: 1, queries: one("max(reelway_ledger_reconcile_violations)")},
			{title: "Since the last proof", unit: "s", single: true, bad: 7200, queries: one("time() - max(reelway_ledger_reconcile_last_success_seconds > 0)")},
			{title: "In review", unit: "short", single: true, bad: 1, queries: one("max(reelway_ledger_reviews)")},
			{title: "Oldest hold", unit: "s", single: true, bad: 108000, queries: one("max(reelway_ledger_holds_age_seconds)")},
		}},
		{"Spending", []panel{
			{title: "Captured credits an hour, by provider", unit: "short", queries: []query{{"sum by (provider) (rate(reelway_ledger_captured_micros_total[1h])) * 3600 / 1e6", "{{provider}}"}}},
			{title: "Captured credits an hour, by model", unit: "short", queries: []query{{"sum by (model) (rate(reelway_ledger_captured_micros_total[1h])) * 3600 / 1e6", "{{model}}"}}},
			{title: "Held credits", unit: "short", queries: one("max(reelway_ledger_holds_micros) / 1e6")},
		}},
		{"Requests for videos", []panel{
			{title: "Opened and refused", unit: "ops", queries: each("reelway_ledger_opens_total", "result")},
			{title: "Observations by verdict", about: "conflict wants an operator", unit: "ops", queries: each("reelway_ledger_observations_total", "verdict")},
			{title: "Attempts given up", about: "each may have cost money", unit: "ops", queries: each("reelway_dispatcher_given_up_total", "provider")},
		}},
	}}
}

func delivery() board {
	return board{"delivery", "Reelway: delivery", "How results and events reach people.", []row{
		{"Watchers", []panel{
			{title: "Connections", unit: "short", queries: []query{{"sum by (job) (reelway_realtime_connections)", "{{job}}"}}},
			{title: "Commit to watcher", unit: "s", queries: quantiles("reelway_push_latency_seconds", "transport")},
			{title: "Provider's webhook to watcher", about: "SLO: 99 % under 2 s", unit: "s", queries: quantiles("reelway_push_webhook_latency_seconds", "transport")},
			{title: "Cut off", unit: "ops", queries: each("reelway_realtime_cuts_total", "reason")},
		}},
		{"Webhooks", []panel{
			{title: "Attempts by outcome", unit: "ops", queries: each("reelway_webhook_attempts_total", "outcome")},
			{title: "Event to delivery", unit: "s", queries: []query{{"histogram_quantile(0.99, sum by (le) (rate(reelway_webhook_latency_seconds_bucket[$__rate_interval])))", "p99"}}},
			{title: "Answers of endpoints", unit: "s", queries: []query{{"histogram_quantile(0.99, sum by (le) (rate(reelway_webhook_duration_seconds_bucket[$__rate_interval])))", "p99"}}},
			{title: "Oldest that is due", unit: "s", queries: one("max(reelway_webhook_backlog_age_seconds)")},
		}},
		{"Results and mail", []panel{
			{title: "Copying a result", unit: "s", queries: quantiles("reelway_archiver_copy_duration_seconds", "provider")},
			{title: "Copies by result", unit: "ops", queries: each("reelway_archiver_copy_duration_seconds_count", "result")},
			{title: "Bucket", unit: "ms", queries: quantiles("gocloud_dev_blob_latency_milliseconds", "gocdk_method")},
			{title: "Letters", unit: "ops", queries: each("reelway_mail_letters_total", "result")},
		}},
	}}
}

func bus() board {
	return board{"bus", "Reelway: bus", "NATS, and what the services do with it.", []row{
		{"State", []panel{
			{title: "Dead letters", unit: "short", single: true, bad: 1, queries: one(`max(reelway_bus_stream_messages{stream="DEAD"})`)},
			{title: "Oldest in the outbox", unit: "s", single: true, bad: 30, queries: one("max(reelway_ledger_outbox_age_seconds)")},
			{title: "In the outbox", unit: "short", single: true, queries: one(`max(reelway_ledger_outbox_size{state="due"})`)},
			{title: "Too large for the bus", unit: "short", single: true, bad: 1, queries: one(`max(reelway_ledger_outbox_size{state="parked"})`)},
		}},
		{"Consumers", []panel{
			{title: "Lag", unit: "short", queries: most("reelway_bus_consumer_pending", "consumer")},
			{title: "Unacknowledged", unit: "short", queries: most("reelway_bus_consumer_unacknowledged", "consumer")},
			{title: "Given out again", unit: "short", queries: most("reelway_bus_consumer_redelivered", "consumer")},
		}},
		{"Work", []panel{
			{title: "Messages by result", unit: "ops", queries: each("reelway_bus_messages_total", "result")},
			{title: "Messages by consumer", unit: "ops", queries: each("reelway_bus_messages_total", "consumer")},
			{title: "Time of a message", unit: "s", queries: quantiles("reelway_bus_process_duration_seconds", "consumer")},
			{title: "Silent jobs told again", about: "what the bus lost, or what takes long", unit: "ops", queries: each("reelway_ledger_swept_total", "state")},
		}},
		{"Streams", []panel{
			{title: "Messages", unit: "short", queries: most("reelway_bus_stream_messages", "stream")},
			{title: "Of the limit", unit: "percentunit", queries: []query{{"max by (stream) (reelway_bus_stream_size_bytes) / max by (stream) (reelway_bus_stream_limit_bytes > 0)", "{{stream}}"}}},
		}},
	}}
}
