package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"reelway.dev/pkg/mtls"
)

// LedgerConfig is how services reach the ledger, and where it listens.
type LedgerConfig struct {
	Addr   string `env:"REELWAY_LEDGER_ADDR" envDefault:"127.0.0.1:9091" desc:"gRPC address of the ledger"`
	TLSDir string `env:"REELWAY_TLS_DIR" desc:"directory of tls.crt, tls.key and ca.crt: services and ledger speak TLS 1.3 alone, and each shows a certificate of that CA; files are read anew when they change. Empty: plain text"`
}

// CallersConfig is whom the ledger lets in.
type CallersConfig struct {
	Names []string `env:"REELWAY_LEDGER_CALLERS" desc:"names (DNS or URI) of certificates that the ledger lets in, separated by commas; all of the CA when empty. Needs REELWAY_TLS_DIR"`
}

// DoorConfig is how a public door speaks.
type DoorConfig struct {
	TLSDir string `env:"REELWAY_GRPC_TLS_DIR" desc:"directory of tls.crt and tls.key with which the public gRPC door speaks TLS 1.3; callers show their API key. Files are read anew when they change. Empty: plain text, for a gateway in front"`
}

// DialLedger returns a client connection to the ledger, over mutual TLS where it is
// set up. As Dial, it retries nothing.
func DialLedger(cfg LedgerConfig) (*grpc.ClientConn, error) {
	if cfg.TLSDir == "" {
		return Dial(cfg.Addr)
	}
	files, err := mtls.Open(cfg.TLSDir)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_TLS_DIR: %w", err)
	}
	return Dial(cfg.Addr, grpc.WithTransportCredentials(&mutual{files: files}))
}

// NewLedgerServer returns the ledger's server, over mutual TLS where it is set up:
// then plain text, a certificate that is not of the CA or not valid, and a caller
// with none of the names are refused, and logged with the reason.
func NewLedgerServer(cfg LedgerConfig, callers CallersConfig) (*grpc.Server, error) {
	if cfg.TLSDir == "" && len(callers.Names) > 0 {
		return nil, errors.New("REELWAY_LEDGER_CALLERS needs REELWAY_TLS_DIR: without certificates callers have no names")
	}
	if cfg.TLSDir == "" {
		return NewServer(), nil
	}
	files, err := mtls.Open(cfg.TLSDir)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_TLS_DIR: %w", err)
	}
	return NewServer(grpc.Creds(&mutual{files: files, callers: callers.Names})), nil
}

// NewDoor returns the server of a public door, over TLS where it is set up.
func NewDoor(cfg DoorConfig) (*grpc.Server, error) {
	if cfg.TLSDir == "" {
		return NewServer(), nil
	}
	files, err := mtls.OpenServer(cfg.TLSDir)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_GRPC_TLS_DIR: %w", err)
	}
	return NewServer(grpc.Creds(&mutual{files: files})), nil
}

// DialDoor returns a client connection to a public door: https://host:port is TLS,
// judged by the system's certificates, host:port is plain text.
func DialDoor(target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	host, secure := strings.CutPrefix(target, "https://")
	if secure {
		opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13})))
	}
	return Dial(host, opts...)
}

// mutual is TLS with a configuration of its own for each connection, so that files
// that changed count from the next one on.
type mutual struct {
	files   *mtls.Files
	callers []string // names that may call; empty: all
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *mutual) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	name := authority
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	ours := c.files.String()
	conn, info, err := credentials.NewTLS(c.files.Client(name)).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, mtls.Explain(err, ours)
	}
	return &shown{Conn: conn, ours: ours}, info, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *mutual) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := c.files.Server()
	if len(c.callers) > 0 {
		cfg.VerifyConnection = c.mayCall
	}
	conn, info, err := credentials.NewTLS(cfg).ServerHandshake(raw)
	if err == nil {
		return conn, info, nil
	}
	err = mtls.Explain(err, c.files.String())
	if errors.Is(err, io.EOF) { // somebody looked whether the port is open
		slog.Debug("connection ended before it began", "from", raw.RemoteAddr().String(), "error", err.Error())
	} else {
		slog.Warn("connection refused", "from", raw.RemoteAddr().String(), "error", err.Error())
	}
	return nil, nil, err
}

func (c *mutual) mayCall(state tls.ConnectionState) error {
	names := mtls.Names(state.PeerCertificates[0])
	if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(c.callers, n) }) {
		return nil
	}
	return fmt.Errorf("the caller's certificate is of %s, and REELWAY_LEDGER_CALLERS lets in %s", strings.Join(names, ", "), strings.Join(c.callers, ", "))
}

// Info implements credentials.TransportCredentials.
func (c *mutual) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (c *mutual) Clone() credentials.TransportCredentials { other := *c; return &other }

// OverrideServerName implements credentials.TransportCredentials.
func (c *mutual) OverrideServerName(string) error {
	return errors.New("a server's name is its target's, or by grpc.WithAuthority")
}

// shown is a connection whose certificate the server may still refuse: in TLS 1.3 a
// client learns that when it reads, or it finds the connection gone when it writes.
type shown struct {
	net.Conn
	ours  string
	heard atomic.Bool
}

// Read implements net.Conn.
func (s *shown) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.heard.Store(true)
	}
	return n, s.explain(err)
}

// Write implements net.Conn.
func (s *shown) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, s.explain(err)
}

func (s *shown) explain(err error) error {
	err = mtls.Explain(err, s.ours)
	if err == nil || s.heard.Load() {
		return err
	}
	return fmt.Errorf("%w; nothing was heard of the other end: if it refused our certificate, %s, its log says why", err, s.ours)
}
