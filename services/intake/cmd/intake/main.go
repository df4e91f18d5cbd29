// Command intake runs the intake service: REST on REELWAY_HTTP_ADDR, gRPC on
// REELWAY_GRPC_ADDR. It serves a bucket folder's files too, where one is used.
package main

import (
	"context"
	"net/http"
	"os"
	"slices"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/limit"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/route"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/intake"
)

type config struct {
	Addr      string   `env:"REELWAY_HTTP_ADDR" envDefault:"127.0.0.1:8080" desc:"address of REST"`
	Providers []string `env:"REELWAY_PROVIDERS" desc:"providers whose models are offered, separated by commas: those of which a dispatcher has a key; all when empty"`
	GRPCAddr  string   `env:"REELWAY_GRPC_ADDR" envDefault:"127.0.0.1:9090" desc:"address of gRPC"`
}

// offers reports whether a provider's models are on offer.
func (c *config) offers(provider string) bool {
	return len(c.Providers) == 0 || slices.Contains(c.Providers, provider)
}

func main() {
	door, cfg, nats, led, bkt, guard := &config{}, &intake.Config{}, &bus.Config{}, &rpc.LedgerConfig{}, &bucket.Config{}, &safehttp.Config{}
	models, ways, live, tls := &catalog.Config{}, &route.Config{}, &livetoken.Config{}, &rpc.DoorConfig{}
	os.Exit(run.Main("intake", "takes requests: authenticates, validates, prices, submits", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		l, err := h.Listen("REELWAY_HTTP_ADDR", door.Addr)
		if err != nil {
			return err
		}
		gl, err := h.Listen("REELWAY_GRPC_ADDR", door.GRPCAddr)
		if err != nil {
			return err
		}
		cat, err := catalog.Open(*models, door.offers, h.Log)
		if err != nil {
			return err
		}
		files, err := bucket.Open(ctx, *bkt)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = files.Close() })
		b, shut, err := bus.Connect(ctx, *nats, "intake")
		if err != nil {
			return err
		}
		h.OnClose(shut)
		h.Ready(b.Ready)
		conn, err := rpc.DialLedger(*led)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = conn.Close() })
		routes, err := route.Open(*ways, cat, h.Log)
		if err != nil {
			return err
		}
		tokens, err := livetoken.Open(*live)
		if err != nil {
			return err
		}
		accounts := ledgerv1.NewAccountServiceClient(conn)
		authn := auth.New(accounts, time.Now)
		counters, err := b.Counters(ctx)
		if err != nil {
			return err
		}
		s, err := intake.New(*cfg, intake.Deps{Jobs: ledgerv1.NewJobServiceClient(conn), Ledger: ledgerv1.NewLedgerServiceClient(conn),
			Usage: ledgerv1.NewUsageServiceClient(conn), Privacy: ledgerv1.NewPrivacyServiceClient(conn),
			Accounts: accounts, Budgets: ledgerv1.NewBudgetServiceClient(conn), Providers: ledgerv1.NewProviderServiceClient(conn),
			Maintenance: ledgerv1.NewMaintenanceServiceClient(conn),
			DeadLetters: ledgerv1.NewDeadLetterServiceClient(conn), Inspection: ledgerv1.NewInspectionServiceClient(conn), Webhooks: webhookv1.NewWebhookServiceClient(conn), Auth: authn, Limits: limit.New(counters, time.Now, h.Log), Status: b, Files: files, Store: files, Uploads: ledgerv1.NewUploadServiceClient(conn), Catalog: cat, Routes: routes,
			CheckURL: guard.CheckURL, Health: h.Healthy, Tokens: tokens, Realtime: ledgerv1.NewRealtimeServiceClient(conn), Logger: h.Log})
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("/", s.Handler())
		if f := files.Handler(); f != nil {
			mux.Handle(bucket.FilesPath, f)
		}
		srv, err := rpc.NewDoor(*tls)
		if err != nil {
			return err
		}
		s.Register(srv)
		h.Add(run.Doors, run.HTTP("http", l, mux), rpc.Component("grpc", srv, gl))
		h.Add(run.Consumers, authn.Components(b)...)
		h.Add(run.Consumers, cat.Components()...)
		h.Add(run.Consumers, routes.Components()...)
		h.Add(run.Consumers, s.Components()...)
		return nil
	}, door, cfg, nats, led, bkt, guard, models, ways, live, tls))
}
