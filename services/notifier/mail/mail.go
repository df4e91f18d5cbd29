// Package mail writes to people: that their video is done or has failed, that a
// budget is used up, that an account is paused. It reads events, asks the ledger
// who is to be told and has not been, and hands letters to an SMTP server. It
// keeps nothing itself, and no address of it ends in a log or an event.
package mail

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Config is what an operator may set. Without an SMTP server nothing is sent;
// links of letters that were sent before go on working.
type Config struct {
	SMTPURL  string        `env:"REELWAY_SMTP_URL" desc:"the mail server: smtp://USER:PASSWORD@HOST:587 with STARTTLS, or smtps:// with TLS from the first byte; empty sends no e-mail"`
	SMTPCA   string        `env:"REELWAY_SMTP_CA" desc:"certificates in PEM, trusted for the mail server instead of the system's"`
	From     string        `env:"REELWAY_MAIL_FROM" desc:"the sender, such as Acme Video <video@acme.example>; required with REELWAY_SMTP_URL"`
	URL      string        `env:"REELWAY_MAIL_URL" url:"true" desc:"how readers reach the notifier by HTTP: the base of links in letters; in one process REELWAY_PUBLIC_URL when empty"`
	Secret   string        `env:"REELWAY_MAIL_SECRET" desc:"signs the links in letters, 32 characters or more; another one ends the links of letters sent before"`
	LinkLife time.Duration `env:"REELWAY_MAIL_LINK_LIFE" min:"1m" max:"8760h" envDefault:"168h" desc:"how long the link to a video works; unsubscribing works for ever"`
	PerHour  int           `env:"REELWAY_MAIL_PER_HOUR" min:"1" max:"1000000" envDefault:"20" desc:"letters to one address in an hour; more wait"`
	MaxAge   time.Duration `env:"REELWAY_MAIL_MAX_AGE" min:"1m" max:"72h" envDefault:"12h" desc:"an event that is older is not written about any more"`
	Timeout  time.Duration `env:"REELWAY_SMTP_TIMEOUT" min:"1s" max:"2m" envDefault:"30s" desc:"the most that handing over one letter may take"`
	Retry    time.Duration `env:"REELWAY_SMTP_RETRY" min:"10ms" max:"1h" envDefault:"30s" desc:"how long a letter waits that the mail server did not take now"`
}

// Or is c with the base of links and the secret where c has none.
func (c Config) Or(url, secret string) Config {
	c.URL, c.Secret = cmp.Or(c.URL, url), cmp.Or(c.Secret, secret)
	return c
}

// Signer makes a stored file's URL; bucket.Bucket is one.
type Signer interface {
	SignedURL(ctx context.Context, key string) (string, time.Time, error)
}

// Deps are mail's neighbours.
type Deps struct {
	Bus    *bus.Bus
	Ledger ledgerv1.MailServiceClient
	Jobs   ledgerv1.JobServiceClient
	Files  Signer
	Logger *slog.Logger
	Now    func() time.Time
}

// Service sends letters and serves their links. Any number of replicas may run.
type Service struct {
	cfg     Config
	d       Deps
	links   links
	smtp    *sender // nil: nothing is sent
	letters metric.Int64Counter
	failing atomic.Bool // the last letter was not sent, and could be later
}

// New returns a Service; every field of d is required. What is wrong with the
// settings is named.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Ledger == nil || d.Jobs == nil || d.Files == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("mail: every dependency is required")
	}
	s := &Service{cfg: cfg, d: d}
	var err error
	if cfg.SMTPURL != "" {
		if cfg.URL == "" {
			return nil, errors.New("REELWAY_MAIL_URL is required with REELWAY_SMTP_URL: letters have links")
		}
		if len(cfg.Secret) < 32 {
			return nil, errors.New("REELWAY_MAIL_SECRET must have 32 characters or more with REELWAY_SMTP_URL")
		}
		if s.smtp, err = newSender(cfg); err != nil {
			return nil, err
		}
	}
	s.links = links{base: cfg.URL, secret: []byte(cfg.Secret)}
	s.letters, err = otel.Meter("reelway.dev/services/notifier/mail").Int64Counter("reelway.mail.letters", metric.WithUnit("{letter}"),
		metric.WithDescription("letters by what became of them: sent, refused (never taken), deferred (tried again)"))
	if err != nil {
		return nil, fmt.Errorf("make meter: %w", err)
	}
	return s, nil
}

// told are the states of jobs that are written about. Who cancels knows.
var told = []job.State{job.Succeeded, job.Failed, job.Expired, job.NeedsReview}

// workers is how many letters of one kind are under way in one replica.
const workers = 2

// Components are the readers of events; none without a mail server.
func (s *Service) Components() []run.Component {
	if s.smtp == nil {
		return nil
	}
	out := []run.Component{{Name: "mail-notices", Run: func(ctx context.Context) error {
		return bus.Consume(ctx, s.d.Bus, bus.MailNoticeConsumer, workers, s.notice)
	}}}
	for _, st := range told {
		out = append(out, run.Component{Name: "mail-" + string(st), Run: func(ctx context.Context) error {
			return bus.Consume(ctx, s.d.Bus, bus.MailConsumer(string(st)), workers, s.jobEnded)
		}})
	}
	return out
}

// jobEnded writes about the end of a job, of which there is one.
func (s *Service) jobEnded(ctx context.Context, ev *eventv1.JobEvent) error {
	v := ev.GetVideo()
	if v == nil {
		return bus.Terminate(errors.New("event has no video"))
	}
	state := job.FromProto(v.GetState())
	return s.deliver(ctx, event{id: v.GetId() + "/" + string(state), account: v.GetAccountId(), job: v.GetId(), at: ev.GetOccurredAt()}, func() content {
		return ofJob(v, state, s.cfg.LinkLife, func(kind string) string {
			return s.links.file(kind, v.GetAccountId(), v.GetId(), s.d.Now().Add(s.cfg.LinkLife))
		})
	})
}

// notice writes about an account's money to its owner.
func (s *Service) notice(ctx context.Context, n *eventv1.AccountNotice) error {
	return s.deliver(ctx, event{id: noticeID(n), account: n.GetAccountId(), at: n.GetOccurredAt()}, func() content { return ofNotice(n) })
}

// noticeID is the same however often a notice is delivered.
func noticeID(n *eventv1.AccountNotice) string {
	b := n.GetBudget()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%s", b.GetBudgetId(), b.GetSubjectId(), b.GetPercent(), n.GetOccurredAt().AsTime().Format(time.RFC3339Nano)))
	return "notice/" + hex.EncodeToString(sum[:16])
}

// event is what a letter is about.
type event struct {
	id, account, job string
	at               *timestamppb.Timestamp
}

// deliver sends what the event calls for and was not sent before. A letter that
// cannot be sent now is tried again until the event is too old: nothing of this
// ends in the dead letters.
func (s *Service) deliver(ctx context.Context, ev event, write func() content) error {
	if s.d.Now().Sub(ev.at.AsTime()) > s.cfg.MaxAge {
		return nil
	}
	r, err := s.d.Ledger.BeginMail(ctx, &ledgerv1.BeginMailRequest{EventId: ev.id, AccountId: ev.account, JobId: ev.job,
		PerHour: int32(s.cfg.PerHour), Lease: durationpb.New(s.lease())})
	if err != nil {
		return bus.After(s.cfg.Retry, fmt.Errorf("claim letters of %s: %w", ev.id, err))
	}
	wait := r.GetWait().AsDuration()
	for _, l := range r.GetLetters() {
		if err := s.send(ctx, ev, l, write()); err != nil {
			wait = max(wait, s.cfg.Retry)
			if !s.failing.Swap(true) { // once, not for each letter that waits
				s.d.Logger.WarnContext(ctx, "letters wait", "event_id", ev.id, "account_id", ev.account, "error", err.Error())
			}
		} else if s.failing.Swap(false) {
			s.d.Logger.InfoContext(ctx, "letters go out again")
		}
	}
	if wait > 0 {
		return bus.After(wait, fmt.Errorf("letters of %s wait", ev.id))
	}
	return nil
}

// lease is for two letters, which an event has at the most, and saying so.
func (s *Service) lease() time.Duration { return 3 * s.cfg.Timeout }

// send hands one letter over and says what became of it. Between the two lies
// the only moment in which a letter can go out twice.
func (s *Service) send(ctx context.Context, ev event, l *ledgerv1.Letter, c content) error {
	c.Unsubscribe = s.links.unsubscribe(ev.account, l.GetRecipient())
	sum := sha256.Sum256(append([]byte(ev.account+"\n"+ev.id+"\n"), l.GetRecipient()...))
	outcome := ledgerv1.MailOutcome_MAIL_OUTCOME_SENT
	sent := s.smtp.send(ctx, l.GetAddress(), hex.EncodeToString(sum[:16]), c)
	var refused *refusedError
	switch {
	case errors.As(sent, &refused):
		outcome = ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED
		s.d.Logger.WarnContext(ctx, "letter refused", "event_id", ev.id, "account_id", ev.account, "error", sent.Error())
		sent = nil
	case sent != nil:
		outcome = ledgerv1.MailOutcome_MAIL_OUTCOME_DEFERRED
	}
	s.letters.Add(ctx, 1, metric.WithAttributes(attribute.String("result", words[outcome])))
	if _, err := s.d.Ledger.EndMail(ctx, &ledgerv1.EndMailRequest{EventId: ev.id, AccountId: ev.account, JobId: ev.job,
		Recipient: l.GetRecipient(), Outcome: outcome}); err != nil {
		return errors.Join(sent, fmt.Errorf("note letter: %w", err))
	}
	return sent
}

var words = map[ledgerv1.MailOutcome]string{
	ledgerv1.MailOutcome_MAIL_OUTCOME_SENT:     "sent",
	ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED:  "refused",
	ledgerv1.MailOutcome_MAIL_OUTCOME_DEFERRED: "deferred",
}
