// Package mtls keeps a certificate, its key and the CA by which others' are
// judged, read anew when their files change, so that whoever renews them restarts
// nothing. It opens no connection.
package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The names of the files, as Kubernetes and cert-manager have them in a Secret of
// type kubernetes.io/tls.
const (
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
	CAFile   = "ca.crt"
)

// fresh is for how long files are not looked at again.
const fresh = time.Second

// Files are those of a directory. They are safe for concurrent use.
type Files struct {
	dir string
	ca  bool // there is a CA to read, too

	mu      sync.Mutex
	read    time.Time // when the files were last looked at
	raw     [3][]byte
	now     material
	refused string // why the files that lie there now are not used
}

type material struct {
	cert tls.Certificate
	pool *x509.CertPool
}

// Open reads the certificate, the key and the CA of a directory. The certificate
// has to be valid now and of the CA: with another one nobody would speak to us.
func Open(dir string) (*Files, error) { return open(dir, true) }

// OpenServer reads the certificate and the key of a directory, for a door that
// asks callers for no certificate.
func OpenServer(dir string) (*Files, error) { return open(dir, false) }

func open(dir string, ca bool) (*Files, error) {
	f := &Files{dir: dir, ca: ca, read: time.Now()}
	var err error
	if f.raw, err = f.bytes(); err != nil {
		return nil, err
	}
	if f.now, err = f.parse(f.raw); err != nil {
		return nil, err
	}
	_, err = otel.Meter("reelway.dev/pkg/mtls").Float64ObservableGauge("reelway.tls.certificate.expires", metric.WithUnit("s"),
		metric.WithDescription("When the certificate that is in use ends, as seconds since 1970"),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(float64(f.current().cert.Leaf.NotAfter.Unix()), metric.WithAttributes(attribute.String("directory", dir)))
			return nil
		}))
	if err != nil {
		return nil, fmt.Errorf("make instrument: %w", err)
	}
	return f, nil
}

// Certificate is ours, to be shown.
func (f *Files) Certificate() tls.Certificate { return f.current().cert }

// Pool holds the CA by which others are judged.
func (f *Files) Pool() *x509.CertPool { return f.current().pool }

// Client is the configuration for one connection to a server of this name, a DNS
// name or an IP address: TLS 1.3 alone, with our certificate.
func (f *Files) Client(name string) *tls.Config {
	m := f.current()
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name, RootCAs: m.pool, Certificates: []tls.Certificate{m.cert}}
}

// Server is the configuration for one connection of a client: TLS 1.3 alone, and
// where there is a CA a client without a certificate of it is refused.
func (f *Files) Server() *tls.Config {
	m := f.current()
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.cert}}
	if f.ca {
		cfg.ClientCAs, cfg.ClientAuth = m.pool, tls.RequireAndVerifyClientCert
	}
	return cfg
}

// String says which certificate is shown, for messages.
func (f *Files) String() string {
	leaf := f.current().cert.Leaf
	return fmt.Sprintf("%s of %s, valid until %s", filepath.Join(f.dir, CertFile), strings.Join(Names(leaf), ", "), leaf.NotAfter.UTC().Format(time.RFC3339))
}

// Names are the DNS names, the URIs and the IP addresses of a certificate.
func Names(c *x509.Certificate) []string {
	names := append([]string(nil), c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// current is what the files hold. Files that cannot be used, such as a key beside
// a certificate that is not yet its own, change nothing, and are told of once.
func (f *Files) current() material {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.read) < fresh {
		return f.now
	}
	f.read = time.Now()
	raw, err := f.bytes()
	if err == nil && same(raw, f.raw) {
		f.refused = ""
		return f.now
	}
	var m material
	if err == nil {
		m, err = f.parse(raw)
	}
	switch {
	case err == nil:
		f.raw, f.now, f.refused = raw, m, ""
		slog.Info("certificate renewed", "directory", f.dir, "serial", m.cert.Leaf.SerialNumber.Text(16), "valid_until", m.cert.Leaf.NotAfter.UTC())
	case err.Error() != f.refused:
		f.refused = err.Error()
		slog.Error("new certificate is not used, the one before is", "error", err.Error())
	}
	return f.now
}

func same(a, b [3][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (f *Files) bytes() (raw [3][]byte, err error) {
	names := []string{CertFile, KeyFile, CAFile}
	if !f.ca {
		names = names[:2]
	}
	for i, name := range names {
		if raw[i], err = os.ReadFile(filepath.Join(f.dir, name)); err != nil {
			return raw, fmt.Errorf("read certificate: %w", err)
		}
	}
	return raw, nil
}

func (f *Files) parse(raw [3][]byte) (material, error) {
	cert, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return material{}, fmt.Errorf("read %s and %s of %s: %w", CertFile, KeyFile, f.dir, err)
	}
	m, path := material{cert: cert}, filepath.Join(f.dir, CertFile)
	if now := time.Now(); now.After(cert.Leaf.NotAfter) {
		return material{}, fmt.Errorf("%s has expired at %s: renew it", path, cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	} else if now.Before(cert.Leaf.NotBefore) {
		return material{}, fmt.Errorf("%s is valid from %s on: correct this machine's clock, or wait", path, cert.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if !f.ca {
		return m, nil
	}
	m.pool = x509.NewCertPool()
	if !m.pool.AppendCertsFromPEM(raw[2]) {
		return material{}, fmt.Errorf("%s holds no certificate in PEM", filepath.Join(f.dir, CAFile))
	}
	chain := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(c)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: m.pool, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return material{}, fmt.Errorf("%s is not of the CA in %s: %w", path, CAFile, err)
	}
	return m, nil
}

// explained has the text of what to do behind the fault itself.
type explained struct {
	error
	advice string
}

// Error implements error.
func (e *explained) Error() string { return e.error.Error() + "; " + e.advice }

// Unwrap leads to the fault itself.
func (e *explained) Unwrap() error { return e.error }

// Explain adds to a failure of TLS what an operator can do about it; other errors
// are returned as they are. ours says which certificate was shown, and may be
// empty.
func Explain(err error, ours string) error {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		record  tls.RecordHeaderError
		done    *explained
	)
	switch {
	case err == nil || errors.As(err, &done):
		return err
	case errors.As(err, &unknown):
		return &explained{err, "the other end's certificate is not of our CA: both ends need certificates of one CA, and that one in " + CAFile}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &explained{err, "renew the other end's certificate, or correct this machine's clock"}
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return &explained{err, "the other end's certificate has to be for servers and for clients (extended key usage)"}
	case errors.As(err, &host):
		return &explained{err, "reach it by a name that its certificate has, or give it one with this name"}
	case errors.As(err, &record):
		return &explained{err, "the other end speaks plain text: set up TLS there too, or nowhere"}
	case alert(err) && ours != "":
		return &explained{err, "the other end refused our certificate, " + ours + ": its log says why"}
	}
	return err
}

// alert reports whether the other end ended the connection by an alert of TLS,
// whose type crypto/tls exports in part only, or, as NATS's client says it, without
// a word after the handshake.
func alert(err error) bool {
	return strings.Contains(err.Error(), "remote error: tls: ") || strings.Contains(err.Error(), "closed by remote after TLS handshake")
}
