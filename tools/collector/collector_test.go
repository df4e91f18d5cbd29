// Package collector tries the configuration of the OpenTelemetry Collector that
// deploy/k8s/components/monitoring/collector.yaml proposes.
package collector

import (
	"os"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
	"gopkg.in/yaml.v3"
)

const file = "../../deploy/k8s/components/monitoring/collector.yaml"

// spans is a trace of two, the second of which begins some time after the first.
func spans(n byte, apart time.Duration, failed bool) ptrace.Traces {
	out := ptrace.NewTraces()
	in := out.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i, at := range []time.Duration{0, apart} {
		s := in.AppendEmpty()
		s.SetTraceID(pcommon.TraceID{n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, n})
		s.SetSpanID(pcommon.SpanID{byte(i + 1)})
		begin := time.Unix(1_700_000_000, 0).Add(at)
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(begin))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(begin.Add(time.Second)))
		if failed && i == 1 {
			s.Status().SetCode(ptrace.StatusCodeError)
		}
	}
	return out
}

// Traces with errors and slow ones are kept, all of them; of the others a few.
func TestTailSampling(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Processors map[string]map[string]any
		Service    struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
		Receivers, Exporters map[string]any
	}
	if err := yaml.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for name, p := range all.Service.Pipelines {
		for _, r := range p.Receivers {
			if all.Receivers[r] == nil {
				t.Errorf("%s: no receiver %s", name, r)
			}
		}
		for _, r := range p.Processors {
			if all.Processors[r] == nil {
				t.Errorf("%s: no processor %s", name, r)
			}
		}
		for _, r := range p.Exporters {
			if all.Exporters[r] == nil {
				t.Errorf("%s: no exporter %s", name, r)
			}
		}
	}
	raw := all.Processors["tail_sampling"]
	raw["decision_wait"] = "1s"
	factory := tailsamplingprocessor.NewFactory()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(raw).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	sink := &consumertest.TracesSink{}
	p, err := factory.CreateTraces(t.Context(), processortest.NewNopSettings(factory.Type()), cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Shutdown(t.Context()) }()
	send := func(tr ptrace.Traces) {
		if err := p.ConsumeTraces(t.Context(), tr); err != nil {
			t.Fatal(err)
		}
	}
	const each = 60
	for i := range byte(each) {
		send(spans(i, time.Minute, true))
		send(spans(100+i, time.Hour, false))
		send(spans(190+i, time.Minute, false))
	}
	kept := func() (errors, slow, plain int) {
		seen := map[byte]bool{}
		for _, tr := range sink.AllTraces() {
			for i := range tr.ResourceSpans().Len() {
				ss := tr.ResourceSpans().At(i).ScopeSpans()
				for j := range ss.Len() {
					for k := range ss.At(j).Spans().Len() {
						seen[ss.At(j).Spans().At(k).TraceID()[0]] = true
					}
				}
			}
		}
		for n := range seen {
			switch {
			case n < 100:
				errors++
			case n < 190:
				slow++
			default:
				plain++
			}
		}
		return errors, slow, plain
	}
	limit := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		errors, slow, plain := kept()
		if errors == each && slow == each {
			if plain > each/2 {
				t.Errorf("%d of %d traces without a reason were kept", plain, each)
			}
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%d of %d with errors and %d slow ones were kept", errors, each, slow)
		}
	}
}
