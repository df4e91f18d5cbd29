// Package smtptest is a real SMTP server for tests: STARTTLS, or TLS from the first
// byte, by a certificate of its own, PLAIN authentication, and every letter that it
// took.
package smtptest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// The credentials of a Server.
const (
	User     = "reelway"
	Password = "p@ss/word" //nolint:gosec // a test's own
)

// Letter is a letter as it arrived.
type Letter struct {
	To     string
	Header mail.Header
	Text   string // text/plain
	HTML   string // text/html
}

// Server is safe for concurrent use.
type Server struct {
	// CA is its certificate in PEM.
	CA string

	srv    *smtp.Server
	addr   string // of STARTTLS
	secure string // of TLS from the first byte
	served sync.WaitGroup

	mu      sync.Mutex
	letters []Letter
	came    chan struct{} // closed, and made anew, with each letter
	answer  func(to string) error
}

// Start starts a server on a free port of this machine. Close it.
func Start() (*Server, error) {
	cert, ca, err := certificate()
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	plain, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a listener of this machine waits for nothing
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	if err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	s := &Server{CA: ca, addr: plain.Addr().String(), secure: secure.Addr().String(), came: make(chan struct{})}
	s.srv = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{s: s, c: c}, nil }))
	s.srv.Domain, s.srv.ReadTimeout, s.srv.WriteTimeout = "localhost", time.Minute, time.Minute
	s.srv.TLSConfig = settings
	s.srv.ErrorLog = silence{}
	for _, l := range []net.Listener{plain, secure} {
		s.served.Go(func() { _ = s.srv.Serve(l) })
	}
	return s, nil
}

// Close stops the server.
func (s *Server) Close() {
	_ = s.srv.Close()
	s.served.Wait()
}

// URL is how a client reaches it, with the credentials.
func (s *Server) URL() string { return s.URLAs(User, Password) }

// URLAs is URL with other credentials.
func (s *Server) URLAs(user, password string) string {
	return (&url.URL{Scheme: "smtp", User: url.UserPassword(user, password), Host: s.addr}).String()
}

// SecureURL is URL with TLS from the first byte.
func (s *Server) SecureURL() string {
	return (&url.URL{Scheme: "smtps", User: url.UserPassword(User, Password), Host: s.secure}).String()
}

// Answer has each letter to an address answered by answer; nil takes it.
func (s *Server) Answer(answer func(to string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// Refuse is an answer: 550 is final, 451 is not.
func Refuse(code int) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: "not taken"}
}

// Letters are those that were taken, in order.
func (s *Server) Letters() []Letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.letters)
}

// Wait waits until n letters have been taken.
func (s *Server) Wait(ctx context.Context, n int) ([]Letter, error) {
	for {
		s.mu.Lock()
		letters, came := slices.Clone(s.letters), s.came
		s.mu.Unlock()
		if len(letters) >= n {
			return letters, nil
		}
		select {
		case <-ctx.Done():
			return letters, fmt.Errorf("%d of %d letters came: %w", len(letters), n, ctx.Err())
		case <-came:
		}
	}
}

type session struct {
	s    *Server
	c    *smtp.Conn
	user bool
	to   string
}

// AuthMechanisms offers a login on an encrypted connection alone.
func (x *session) AuthMechanisms() []string {
	if _, ok := x.c.TLSConnectionState(); !ok {
		return nil
	}
	return []string{sasl.Plain}
}

// Auth implements smtp.AuthSession.
func (x *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, name, password string) error {
		if name != User || password != Password {
			return smtp.ErrAuthFailed
		}
		x.user = true
		return nil
	}), nil
}

// Mail implements smtp.Session.
func (x *session) Mail(string, *smtp.MailOptions) error {
	if _, ok := x.c.TLSConnectionState(); !ok || !x.user {
		return smtp.ErrAuthRequired
	}
	return nil
}

// Rcpt implements smtp.Session.
func (x *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	x.to = to
	x.s.mu.Lock()
	answer := x.s.answer
	x.s.mu.Unlock()
	if answer != nil {
		return answer(to)
	}
	return nil
}

// Data implements smtp.Session.
func (x *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	l, err := read(raw)
	if err != nil {
		return &smtp.SMTPError{Code: 554, Message: err.Error()}
	}
	l.To = x.to
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.letters = append(x.s.letters, l)
	close(x.s.came)
	x.s.came = make(chan struct{})
	return nil
}

// Reset implements smtp.Session.
func (x *session) Reset() { x.to = "" }

// Logout implements smtp.Session.
func (x *session) Logout() error { return nil }

// read takes a letter apart as a mail program does.
func read(raw []byte) (l Letter, err error) {
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return l, err
	}
	l.Header = m.Header
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		return l, fmt.Errorf("the letter is %s: %w", kind, err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return l, err
		}
		var body io.Reader = p
		if p.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			body = quotedprintable.NewReader(p)
		}
		data, err := io.ReadAll(body)
		if err != nil {
			return l, err
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		switch {
		case err != nil:
			return l, err
		case kind == "text/plain":
			l.Text = string(data)
		case kind == "text/html":
			l.HTML = string(data)
		}
	}
}

func certificate() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make key: %w", err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "smtptest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// silence drops what the server says of connections that end.
type silence struct{}

func (silence) Printf(string, ...any) {}

func (silence) Println(...any) {}
