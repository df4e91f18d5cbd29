// Package tlstest is a CA for tests: it issues certificates that are good, or bad
// in one way, into directories of their own.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA issues certificates.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// New makes a CA.
func New(t testing.TB) *CA {
	t.Helper()
	ca := &CA{t: t}
	ca.key = newKey(t)
	tmpl := &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ca.key.Public(), ca.key)
	if err == nil {
		ca.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	ca.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return ca
}

// PEM is the CA's own certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// Dir returns a new directory with tls.crt, tls.key and ca.crt for DNS names and IP
// addresses. The first name is the common name as well, which is a client's user in
// PostgreSQL.
func (ca *CA) Dir(names ...string) string {
	ca.t.Helper()
	dir := ca.t.TempDir()
	ca.Issue(dir, time.Hour, names...)
	return dir
}

// Expired returns a new directory with a certificate that ended a minute ago.
func (ca *CA) Expired(names ...string) string {
	ca.t.Helper()
	dir := ca.t.TempDir()
	ca.Issue(dir, -time.Minute, names...)
	return dir
}

// Issue writes a certificate that ends after life, its key and the CA into dir, in
// the place of those that lie there; each file at once.
func (ca *CA) Issue(dir string, life time.Duration, names ...string) {
	ca.t.Helper()
	key := newKey(ca.t)
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: serial(ca.t), Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), "ca.crt": ca.pem} {
		part := filepath.Join(dir, name+".part")
		if err := os.WriteFile(part, data, 0o600); err != nil {
			ca.t.Fatal(err)
		}
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			ca.t.Fatal(err)
		}
	}
}

// Trust adds another CA to the ca.crt of a directory, as one does while a CA is
// changed.
func (ca *CA) Trust(dir string) {
	ca.t.Helper()
	path := filepath.Join(dir, "ca.crt")
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(old, ca.pem...), 0o600)
	}
	if err != nil {
		ca.t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
