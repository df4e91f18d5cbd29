package bus

import "time"

// mailTimeout is for the letters of one event, each within a mail server's
// patience.
const mailTimeout = 5 * time.Minute

// MailConsumer reads the jobs that ended in one state, for e-mail. Each state has
// its own, so that progress, which is most of EVENTS, is not read for it.
func MailConsumer(state string) Consumer {
	return Consumer{Stream: StreamEvents, Name: "mail-" + token(state), Filter: "job.*.*." + token(state), AckWait: ackWait, Timeout: mailTimeout, MaxDeliver: 20}
}

// MailNoticeConsumer reads the notices to accounts, for e-mail.
var MailNoticeConsumer = Consumer{Stream: StreamEvents, Name: "mail-notices", Filter: "account.*.notice", AckWait: ackWait, Timeout: mailTimeout, MaxDeliver: 20}
