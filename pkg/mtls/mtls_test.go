package mtls_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/mtls"
	"reelway.dev/pkg/tlstest"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatal("not in time: " + what)
		case <-tick.C:
		}
	}
}

// What cannot be used is refused at the start, with the file and the reason.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	foreign := ca.Dir("ledger")
	if err := os.WriteFile(filepath.Join(foreign, "ca.crt"), other.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	torn := ca.Dir("ledger")
	key, err := os.ReadFile(filepath.Join(ca.Dir("ledger"), "tls.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(torn, "tls.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	empty := ca.Dir("ledger")
	if err := os.WriteFile(filepath.Join(empty, "ca.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		ca.Expired("ledger"): "tls.crt has expired at",
		foreign:              "tls.crt is not of the CA in ca.crt",
		torn:                 "private key does not match public key",
		empty:                "ca.crt holds no certificate in PEM",
		t.TempDir():          "tls.crt: no such file or directory",
	} {
		if _, err := mtls.Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Renewed files are used without a restart; those that cannot be used leave the
// ones before in their place.
func TestFilesAreReadAnew(t *testing.T) {
	t.Parallel()
	ca := tlstest.New(t)
	dir := ca.Dir("a")
	f, err := mtls.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ca.Issue(dir, time.Hour, "b")
	eventually(t, "the second certificate is used", func() bool { return f.Certificate().Leaf.DNSNames[0] == "b" })
	ca.Issue(dir, -time.Minute, "expired")
	// The files are looked at again, and found to be no good, before these.
	looked := time.Now().Add(1500 * time.Millisecond)
	eventually(t, "the files were looked at", func() bool {
		if name := f.Certificate().Leaf.DNSNames[0]; name != "b" {
			t.Fatalf("%s is used", name)
		}
		return time.Now().After(looked)
	})
	ca.Issue(dir, time.Hour, "c")
	eventually(t, "the third certificate is used", func() bool { return strings.Contains(f.String(), "tls.crt of c, valid until ") })
}
