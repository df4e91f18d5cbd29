package ledger

// invariant is a question that must find nothing: each row is one breach, as a
// text. $1 is the first job id to look at and $2 the posting above which to
// look; ” and 0 are everything. Every query names both.
type invariant struct {
	name string
	sql  string
	// whole says that it reads everything whatever is asked: it is left to the
	// full run.
	whole bool
}

// jobPostings sums a job's postings by kind, for some jobs. A job's movements
// begin with its id, so that they are one range of the key.
const jobPostings = `(select coalesce(sum(amount_micros) filter (where kind = 'hold'), 0) as hold,
		coalesce(sum(amount_micros) filter (where kind = 'capture'), 0) as capture,
		coalesce(sum(amount_micros) filter (where kind = 'release'), 0) as release,
		coalesce(sum(amount_micros) filter (where kind = 'refund'), 0) as refund,
		count(*) filter (where kind in ('hold')) as holds,
		count(*) filter (where account_id <> j.account_id) as strays
	from posting p where p.key >= j.id || '/' and p.key < j.id || '0')`

// watched are the jobs of a run: those from an id on, and every live one.
const watched = `(select * from job where id >= $1 union all select * from job where id < $1 and completed_at is null) j`

// recent are the postings of a run, account by account as their key has them.
const recent = `balance b cross join lateral (select * from posting where account_id = b.account_id and id > $2) p`

var invariants = []invariant{
	{name: "each balance equals its postings", whole: true, sql: `
		with moved as (select account_id, book, sum(micros) as micros from (
				select account_id, destination as book, amount_micros as micros from posting where $1 = '' and $2 = 0
				union all select account_id, source, -amount_micros from posting) x group by 1, 2),
			booked as (select b.account_id, x.book, x.micros from balance b cross join lateral (values ('available', available_micros),
				('held', held_micros), ('revenue', revenue_micros), ('funding', funding_micros), ('promotional', promotional_micros),
				('write_off', write_off_micros), ('provider_cost', provider_cost_micros), ('suspense', suspense_micros)) x (book, micros))
		select coalesce(b.account_id, m.account_id) || ' ' || coalesce(b.book, m.book) || ' is ' || coalesce(b.micros, 0) || ', its postings make ' || coalesce(m.micros, 0)
		from booked b full join moved m on m.account_id = b.account_id and m.book = b.book
		where coalesce(b.micros, 0) <> coalesce(m.micros, 0)`},
	{name: "a balance is where its last posting left it", sql: `
		select b.account_id || ' has ' || available_micros || ' and ' || held_micros || ', posting ' || coalesce(p.key, 'none') || ' left '
			|| coalesce(p.a, 0) || ' and ' || coalesce(p.h, 0)
		from balance b left join lateral (select key, available_micros as a, held_micros as h from posting
			where account_id = b.account_id order by id desc limit 1) p on true
		where $1 = $1 and $2 = $2 and (available_micros <> coalesce(p.a, 0) or held_micros <> coalesce(p.h, 0))`},
	{name: "no posting is without a balance", whole: true, sql: `
		select key from posting p where $1 = '' and $2 = 0 and not exists (select from balance b where b.account_id = p.account_id)`},
	{name: "the books of an account hold nothing together, and its own never less than nothing", sql: `
		select account_id from balance where $1 = $1 and $2 = $2 and (available_micros < 0 or held_micros < 0
			or available_micros + held_micros + revenue_micros + funding_micros + promotional_micros
			 + write_off_micros + provider_cost_micros + suspense_micros <> 0)`},
	{name: "each running balance follows from the one before", sql: `
		select key || ' of ' || account_id from (select p.key, p.account_id, p.available_micros, p.held_micros,
				p.available_micros - case 'available' when p.destination then p.amount_micros when p.source then -p.amount_micros else 0 end as a,
				p.held_micros - case 'held' when p.destination then p.amount_micros when p.source then -p.amount_micros else 0 end as h,
				lag(p.available_micros) over w as before_a, lag(p.held_micros) over w as before_h, row_number() over w as n, p.id
			from ` + recent + ` window w as (partition by p.account_id order by p.id)) x
		left join lateral (select available_micros as a, held_micros as h from posting
			where $1 = $1 and x.n = 1 and account_id = x.account_id and id < x.id order by id desc limit 1) f on true
		where x.a <> coalesce(before_a, f.a, 0) or x.h <> coalesce(before_h, f.h, 0) or x.available_micros < 0 or x.held_micros < 0`},
	{name: "held books equal open holds", sql: `
		select account_id || ' holds ' || coalesce(held_micros, 0) || ', its open jobs ' || coalesce(o.micros, 0) from balance b
		full join (select account_id, sum(quote_micros) as micros from job where completed_at is null group by 1) o using (account_id)
		where $1 = $1 and $2 = $2 and coalesce(held_micros, 0) <> coalesce(o.micros, 0)`},
	{name: "every job was held once, and settled once when it ended, within its hold", sql: `
		select j.id || ' ' || j.state || ': held ' || hold || ' of ' || quote_micros || ', captured ' || capture || ' of ' || captured_micros || ', released ' || release
		from ` + watched + ` cross join lateral ` + jobPostings + ` p
		where $2 = $2 and (hold <> quote_micros or holds <> 1 or capture <> captured_micros or capture > hold or strays > 0
			or release <> case when completed_at is null then 0 else quote_micros - captured_micros end
			or (captured_micros > 0) <> (state = 'succeeded') or (hold_state = 'held') <> (completed_at is null))`},
	{name: "refunds are within captures", sql: `
		select j.id || ': refunded ' || refund || ', noted ' || refunded_micros || ', captured ' || captured_micros
		from ` + watched + ` cross join lateral ` + jobPostings + ` p
		where $2 = $2 and (refund <> refunded_micros or refund > captured_micros)`},
	{name: "no posting names a job that is not there", sql: `
		select p.key from ` + recent + ` where $1 = $1 and p.job_id is not null and not exists (select from job j where j.id = p.job_id)`},
	{name: "what is left of grants is within the available credits", sql: `
		select account_id || ' has ' || coalesce(available_micros, 0) || ', its grants ' || l.micros
		from (select account_id, sum(remaining_micros) as micros from grant_lot where live group by 1) l left join balance b using (account_id)
		where $1 = $1 and $2 = $2 and l.micros > coalesce(available_micros, 0)`},
	{name: "grants equal their draws", sql: `
		select coalesce(l.id, d.lot_id) || ': drawn ' || coalesce(l.drawn_micros, 0) || ' of ' || coalesce(d.open, 0) || ', spent ' || coalesce(l.spent_micros, 0) || ' of ' || coalesce(d.spent, 0)
		from grant_lot l full join (select lot_id, sum(amount_micros) filter (where spent_micros is null) as open, sum(spent_micros) as spent
			from lot_draw group by 1) d on d.lot_id = l.id
		where $1 = $1 and $2 = $2 and (l.id is null or l.drawn_micros <> coalesce(d.open, 0) or l.spent_micros <> coalesce(d.spent, 0)
			or l.amount_micros <> l.remaining_micros + l.drawn_micros + l.spent_micros + l.expired_micros)`},
	{name: "grants and their expiry are posted", sql: `
		select coalesce(l.account_id, p.account_id) || ': promotional is ' || coalesce(-p.promotional_micros, 0) || ', its grants ' || coalesce(l.micros, 0)
		from (select account_id, sum(amount_micros - expired_micros) as micros from grant_lot group by 1) l full join balance p using (account_id)
		where $1 = $1 and $2 = $2 and coalesce(-p.promotional_micros, 0) <> coalesce(l.micros, 0)`},
	{name: "a job's part from grants equals its draws, open until it ends", sql: `
		select j.id || ': ' || granted_micros || ' from grants, drew ' || d.amount
		from ` + watched + ` cross join lateral (select coalesce(sum(amount_micros), 0) as amount, count(*) filter (where spent_micros is null) as open,
			coalesce(sum(spent_micros), 0) as spent from lot_draw where taker = j.id) d
		where $2 = $2 and (granted_micros <> d.amount or (completed_at is not null and (open > 0 or spent <> least(granted_micros, captured_micros)))
			or (completed_at is null and spent > 0))`},
	{name: "suspense equals the open reviews", sql: `
		select account_id || ' has ' || coalesce(suspense_micros, 0) || ' in suspense, open reviews ' || coalesce(r.micros, 0) from balance b
		full join (select account_id, sum(amount_micros) as micros from review where outcome is null group by 1) r using (account_id)
		where $1 = $1 and $2 = $2 and coalesce(suspense_micros, 0) <> coalesce(r.micros, 0)`},
	{name: "every job without a verdict has a review, settled once", sql: `
		select j.id || ' has ' || case when r.job_id is null then 'no review' else 'a review as ' || coalesce(r.outcome, 'open') || ' and '
				|| coalesce(s.micros, 0) || ' settled of ' || r.amount_micros end
		from ` + watched + ` left join review r on r.job_id = j.id
		left join lateral (select sum(amount_micros) as micros from posting where key = j.id || '/suspense_settled') s on true
		where $2 = $2 and ((j.state = 'needs_review') <> (r.job_id is not null)
			or r.job_id is not null and coalesce(s.micros, 0) <> case when r.outcome is null then 0 else r.amount_micros end)`},
	{name: "a job's attempts fit its state", sql: `
		select j.id || ' is ' || j.state || ', its attempt ' || coalesce(a.state, 'missing') || ', ' || n.attempts || ' of ' || attempt_count
		from ` + watched + ` left join attempt a on a.id = j.attempt_id and a.job_id = j.id
		cross join lateral (select count(*) as attempts from attempt where job_id = j.id) n
		where $2 = $2 and (n.attempts <> attempt_count or (j.attempt_id is null) <> (attempt_count = 0) or not case j.state
			when 'queued' then coalesce(a.state, 'refused') in ('refused', 'failed')
			when 'submitting' then a.state in ('intended', 'uncertain')
			when 'running' then a.state = 'accepted'
			when 'storing' then a.state = 'succeeded'
			when 'succeeded' then a.state = 'succeeded'
			when 'needs_review' then a.state = 'uncertain'
			else true end is true)`},
	{name: "budgets hold what their live jobs hold", sql: `
		select coalesce(u.budget_id, x.budget) || ' ' || coalesce(u.subject_id, x.of) from
		(select * from budget_use where held_micros > 0) u full join (select c.budget, c.of, c."from", sum(quote_micros) micros
			from job, jsonb_to_recordset(counted_in) as c (budget text, of text, "from" timestamptz) where completed_at is null group by 1, 2, 3) x
		on x.budget = u.budget_id and x.of = u.subject_id and x."from" = u.period_start
		where $1 = $1 and $2 = $2 and coalesce(u.held_micros, 0) <> coalesce(x.micros, 0)`},
	{name: "keys with ceilings know their live jobs", sql: `
		select api_key_id from key_limit l where $1 = $1 and $2 = $2 and live <>
		(select count(*) from job where completed_at is null and api_key_id = l.api_key_id)`},
	{name: "a provider's task belongs to one attempt", whole: true, sql: `
		select provider || ' ' || provider_task_id from attempt where $1 = '' and $2 = 0 and provider_task_id is not null
		group by provider, provider_task_id having count(*) > 1`},
	{name: "a job's costs and credits have their marks", sql: `
		select j.id || ' has a cost of ' || cost_micros || ' ' || cost_currency || ' from ' || cost_source from ` + watched + `
		where $2 = $2 and (granted_micros not between 0 and quote_micros or refunded_micros not between 0 and captured_micros
			or cost_micros < 0 or (cost_source = '') <> (cost_currency = '') or state = 'succeeded' and cost_source = 'expected')`},
	{name: "each day's usage equals the jobs that ended on it", whole: true, sql: `
		select * from (select coalesce(u.account_id, j.account_id) || ' ' || coalesce(u.day, j.day)
		from (select account_id, day, sum(jobs) n, sum(captured_micros) m from usage_day group by 1, 2) u
		full join (select account_id, (completed_at at time zone 'UTC')::date as day, count(*) n, sum(captured_micros) m from job where counted group by 1, 2) j
			on j.account_id = u.account_id and j.day = u.day where (u.n, u.m) is distinct from (j.n, j.m)) q (breach) where $1 = '' and $2 = 0`},
	{name: "usage by user equals usage by day", whole: true, sql: `
		select * from (select coalesce(u.account_id, d.account_id) || ' ' || coalesce(u.day, d.day)
		from (select account_id, day, sum(jobs) n, sum(captured_micros) m, sum(latency) l from usage_user_day group by 1, 2) u
		full join (select account_id, day, sum(jobs) n, sum(captured_micros) m, sum(latency) l from usage_day group by 1, 2) d
			on d.account_id = u.account_id and d.day = u.day where (u.n, u.m, u.l) is distinct from (d.n, d.m, d.l)) q (breach) where $1 = '' and $2 = 0`},
}

// waiting is the invariant of liveness: $1 is how long a live job may be
// without a sweep. It holds while a ledger runs.
const waiting = `select id || ' is ' || state || ' and was last looked at ' || swept_at from job
	where completed_at is null and swept_at < now() - $1::interval and submit_after < now() - $1::interval
		and (state <> 'queued' or created_at < now() - $2::interval or not exists (
			select from queue q where q.provider = job.provider and q.turn = job.turn and q.job_id = job.id))`
