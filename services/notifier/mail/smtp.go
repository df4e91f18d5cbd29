package mail

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// refusedError says that the mail server will never take a letter.
type refusedError struct{ err error }

// Error implements error.
func (e *refusedError) Error() string { return e.err.Error() }

// sender hands letters to one SMTP server, each over a connection of its own. It
// is safe for concurrent use.
type sender struct {
	host    string
	options []gomail.Option
	from    *mail.Address
	timeout time.Duration
}

func newSender(cfg Config) (*sender, error) {
	from, err := mail.ParseAddress(cfg.From)
	if err != nil {
		return nil, errors.New("REELWAY_MAIL_FROM must be an e-mail address, such as Acme Video <video@acme.example>")
	}
	// The URL holds a password: it is not repeated, nor is url.Parse's error.
	u, err := url.Parse(cfg.SMTPURL)
	if err != nil || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, errors.New("REELWAY_SMTP_URL must be smtp://USER:PASSWORD@HOST:PORT or smtps://…; characters such as @ in the password are written as %40")
	}
	settings := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	if cfg.SMTPCA != "" {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM([]byte(cfg.SMTPCA)) {
			return nil, errors.New("REELWAY_SMTP_CA holds no certificate in PEM")
		}
	}
	s := &sender{host: u.Hostname(), from: from, timeout: cfg.Timeout}
	port := 587
	s.options = []gomail.Option{gomail.WithTimeout(cfg.Timeout), gomail.WithTLSConfig(settings), gomail.WithTLSPolicy(gomail.TLSMandatory)}
	if u.Scheme == "smtps" {
		port = 465
		s.options = append(s.options, gomail.WithSSL())
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil {
			return nil, errors.New("REELWAY_SMTP_URL has a port that is no number")
		}
	}
	s.options = append(s.options, gomail.WithPort(port))
	if name := u.User.Username(); name != "" {
		password, _ := u.User.Password()
		s.options = append(s.options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(name), gomail.WithPassword(password))
	}
	_, err = gomail.NewClient(s.host, s.options...)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_SMTP_URL: %w", err)
	}
	return s, nil
}

// send hands a letter over. Its errors tell neither the address nor the text. A
// refusedError is final; after any other the letter may be sent again, and
// whoever got it already knows it by its id.
func (s *sender) send(ctx context.Context, to, id string, c content) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	m, err := s.letter(to, id, c)
	if err != nil {
		return err
	}
	client, err := gomail.NewClient(s.host, s.options...)
	if err != nil {
		return fmt.Errorf("connect to mail server: %w", err)
	}
	err = client.DialAndSendWithContext(ctx, m)
	if err == nil || m.IsDelivered() { // what fails after that concerns the connection
		return nil
	}
	var f *gomail.SendError
	if !errors.As(err, &f) {
		return fmt.Errorf("connect to mail server: %w", err)
	}
	said := fmt.Errorf("mail server, %s: code %d %s", f.Reason, f.ErrorCode(), f.EnhancedStatusCode())
	// Only what concerns the letter is final; a sender or a login that is refused
	// is for the operator to mend.
	if f.ErrorCode() >= 500 && (f.Reason == gomail.ErrSMTPRcptTo || f.Reason == gomail.ErrSMTPDataClose) {
		return &refusedError{said}
	}
	return said
}

// letter is a letter in both forms, with what lets machines tell it from a
// person's, and lets its reader end them with one click (RFC 8058).
func (s *sender) letter(to, id string, c content) (*gomail.Msg, error) {
	var text, page bytes.Buffer
	if err := textLetter.Execute(&text, c); err != nil {
		return nil, fmt.Errorf("write letter: %w", err)
	}
	if err := htmlLetter.Execute(&page, c); err != nil {
		return nil, fmt.Errorf("write letter: %w", err)
	}
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m.FromMailAddress(s.from)
	if err := m.To(to); err != nil {
		return nil, &refusedError{errors.New("the address cannot be written to")}
	}
	m.Subject(c.Subject)
	m.SetDate()
	_, domain, _ := strings.Cut(s.from.Address, "@")
	m.SetMessageIDWithValue(id + "@" + domain)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeaderPreformatted(gomail.HeaderListUnsubscribe, "<"+c.Unsubscribe+">")
	m.SetGenHeader(gomail.HeaderListUnsubscribePost, "List-Unsubscribe=One-Click")
	m.SetBodyString(gomail.TypeTextPlain, text.String())
	m.AddAlternativeString(gomail.TypeTextHTML, page.String())
	return m, nil
}
