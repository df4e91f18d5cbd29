package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is a dashboard: rows of panels, each with its queries.
type board struct {
	name, title, about string
	rows               []row
}

type row struct {
	title  string
	panels []panel
}

// panel is a graph, or one number where single is set. unit is one of Grafana's.
type panel struct {
	title, about, unit string
	single             bool
	bad                float64 // with single: from here on it is red; 0 for never
	queries            []query
}

// height is in units of Grafana's grid.
func (p panel) height() int {
	if p.single {
		return 4
	}
	return 8
}

// query is PromQL, with the name of each series.
type query struct{ expr, legend string }

// source is the variable by which a reader chooses the Prometheus.
var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${source}")}

func (b board) build() (dashboard.Dashboard, error) { //nolint:staticcheck // the version that every Grafana reads
	//nolint:staticcheck // as above
	d := dashboard.NewDashboardBuilder(b.title).Uid("reelway-"+b.name).Description(b.about).Tags([]string{"reelway"}).
		Timezone("utc").Readonly().Refresh("30s").Time("now-6h", "now").Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("source").Label("Prometheus").Type("prometheus")).
		Link(dashboard.NewDashboardLinkBuilder("Reelway").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"reelway"}).AsDropdown(true).KeepTime(true))
	for _, r := range b.rows {
		d = d.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			d = d.WithPanel(p.build(uint32(24 / len(r.panels)))) //nolint:gosec // a handful
		}
	}
	return d.Build()
}

func (p panel) build(span uint32) cog.Builder[dashboard.Panel] {
	targets := make([]cog.Builder[variants.Dataquery], 0, len(p.queries))
	for i, q := range p.queries {
		t := prometheus.NewDataqueryBuilder().Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i))).Range().Datasource(source)
		if !p.single {
			t = t.Exemplar(true)
		}
		targets = append(targets, t)
	}
	if p.single {
		steps := []dashboard.Threshold{{Color: "green"}}
		if p.bad != 0 {
			steps = append(steps, dashboard.Threshold{Color: "red", Value: cog.ToPtr(p.bad)})
		}
		return stat.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Span(span).Height(uint32(p.height())).Targets(targets).
			Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps))
	}
	return timeseries.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Span(span).Height(uint32(p.height())).Min(0).
		LineWidth(1).FillOpacity(10).ShowPoints(common.VisibilityModeNever).Targets(targets).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
}
