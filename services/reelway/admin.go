package reelway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// serverVariable is a setting of the client verbs alone; a stack started in the
// same shell knows it.
const serverVariable = "REELWAY_SERVER"

// adminTimeout bounds a client verb.
const adminTimeout = 30 * time.Second

// admin is what every verb for operators has: which Reelway, by which key, and
// how to answer.
type admin struct {
	Server string `env:"REELWAY_SERVER" default:"127.0.0.1:9090" help:"The gRPC address of the Reelway; https://HOST:PORT where it speaks TLS." placeholder:"HOST:PORT"`
	Key    string `env:"REELWAY_ADMIN_API_KEY" help:"A key of scope admin. Better set in the environment, where other users of this machine do not see it; REELWAY_ADMIN_API_KEY_FILE names a file." placeholder:"KEY"`
	JSON   bool   `name:"json" help:"Print JSON and nothing else."`
}

// Validate finds the key, or says how to give one.
func (a *admin) Validate() error {
	if a.Key == "" {
		if path := os.Getenv("REELWAY_ADMIN_API_KEY_FILE"); path != "" {
			data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
			if err != nil {
				return fmt.Errorf("REELWAY_ADMIN_API_KEY_FILE: %w", err)
			}
			a.Key = strings.TrimSpace(string(data))
		}
	}
	if a.Key == "" {
		return errors.New("no admin key: set REELWAY_ADMIN_API_KEY to the one that `reelway up` printed, or REELWAY_ADMIN_API_KEY_FILE to its file, admin.key in the data directory")
	}
	if strings.ContainsFunc(a.Key, func(r rune) bool { return r < '!' || r > '~' }) {
		return errors.New("the admin key holds characters that no key has")
	}
	return nil
}

// doors are the services that operators reach.
type doors struct {
	accounts  ledgerv1.AccountServiceClient
	credit    ledgerv1.LedgerServiceClient
	budgets   ledgerv1.BudgetServiceClient
	privacy   ledgerv1.PrivacyServiceClient
	providers ledgerv1.ProviderServiceClient
	video     videov1.VideoServiceClient
	dead      ledgerv1.DeadLetterServiceClient
	webhooks  webhookv1.WebhookServiceClient
	upkeep    ledgerv1.MaintenanceServiceClient
	inspect   ledgerv1.InspectionServiceClient
}

// do calls fn with the doors of the server, for at most adminTimeout. Its error
// is the fault's message.
func (a *admin) do(ctx context.Context, fn func(ctx context.Context, d doors) error) error {
	return a.within(ctx, adminTimeout, fn)
}

// within is do for what takes its time.
func (a *admin) within(ctx context.Context, limit time.Duration, fn func(ctx context.Context, d doors) error) error {
	conn, err := rpc.DialDoor(a.Server, grpc.WithUserAgent("reelway"))
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.Key)
	return a.explain(fn(ctx, doors{ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn), ledgerv1.NewBudgetServiceClient(conn), ledgerv1.NewPrivacyServiceClient(conn), ledgerv1.NewProviderServiceClient(conn), videov1.NewVideoServiceClient(conn),
		ledgerv1.NewDeadLetterServiceClient(conn), webhookv1.NewWebhookServiceClient(conn), ledgerv1.NewMaintenanceServiceClient(conn), ledgerv1.NewInspectionServiceClient(conn)}))
}

// explain turns a fault into its message. A server that does not answer at all
// is told apart from one whose parts do not.
func (a *admin) explain(err error) error {
	s, ok := status.FromError(err)
	switch {
	case err == nil || !ok:
		return err
	case len(s.Details()) > 0:
		return errors.New(fault.FromStatus(err).Message)
	case s.Code() == codes.Unavailable:
		return fmt.Errorf("%s does not answer; is Reelway up, and is this its gRPC address (--server, REELWAY_SERVER)?", a.Server)
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("%s does not know this command; it may be of another version, or not Reelway's gRPC address", a.Server)
	}
	return errors.New(fault.FromStatus(err).Message)
}

// answer prints m as JSON when asked to, else table.
func (a *admin) answer(out io.Writer, m any, table ...[]string) error {
	if !a.JSON {
		return printTable(out, table)
	}
	if pm, ok := m.(proto.Message); ok {
		m = messageJSON{pm}
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(m)
}

// messageJSON is a protobuf message within JSON, by the names of its contract.
type messageJSON struct{ proto.Message }

// MarshalJSON implements json.Marshaler.
func (m messageJSON) MarshalJSON() ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m.Message)
}

func printTable(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t ")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// more is a last line of a table that goes on.
func more(hasMore bool, last string) [][]string {
	if !hasMore {
		return nil
	}
	return [][]string{{"more: --after " + last}}
}

// paging is what every list has.
type paging struct {
	After string `help:"Go on after this id, the last one of the page before." placeholder:"ID"`
	Limit int32  `default:"20" help:"Rows of a page, at most 100."`
}

// when is a time in UTC to the second; empty for none.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04:05Z")
}
