package main

import (
	"context"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
)

// Sizes of a picture in its own units. A dashboard is 24 columns wide, as Grafana's.
const (
	column, unitHeight = 50, 30
	gap, pad           = 8, 10
	axis               = 58 // left of a graph
	legendRow          = 14
)

// palette is Grafana's classic one.
var palette = []string{"#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#37872D", "#E0B400", "#1F60C4", "#FA6400", "#C4162A", "#8F3BB8", "#96D98D", "#8AB8FF"}

// picture is an SVG in the making.
type picture struct{ strings.Builder }

func (s *picture) add(format string, args ...any) { _, _ = fmt.Fprintf(s, format+"\n", args...) }

func (s *picture) text(x, y float64, style, text string) {
	s.add(`<text x="%.0f" y="%.0f" %s>%s</text>`, x, y, style, html.EscapeString(text))
}

// box is the place of a panel.
type box struct{ x, y, w, h float64 }

// draw is a dashboard as SVG: its rows, and what its panels showed in the span of r.
func draw(ctx context.Context, b board, r *reader) (string, error) {
	var s picture
	y := 44.0
	for _, row := range b.rows {
		s.text(pad, y+18, `font-size="14" font-weight="600"`, "⌄ "+row.title)
		y += unitHeight
		high := 0.0
		for i, p := range row.panels {
			at := box{x: float64(i * 24 / len(row.panels) * column), y: y, w: float64(24 / len(row.panels) * column), h: float64(p.height() * unitHeight)}
			lines, err := r.lines(ctx, p)
			if err != nil {
				return "", err
			}
			s.panel(p, box{at.x + gap/2, at.y, at.w - gap, at.h - gap}, lines, r)
			high = max(high, at.h)
		}
		y += high
	}
	var out picture
	out.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="Inter, Helvetica, Arial, sans-serif" fill="#24292e">`, 24*column, y+gap)
	out.add(`<rect width="100%%" height="100%%" fill="#f4f5f5"/>`)
	out.text(pad, 28, `font-size="19" font-weight="600"`, b.title)
	out.text(24*column-pad, 28, `font-size="12" text-anchor="end"`, fmt.Sprintf("%.0f minutes of a run with the simulated providers", r.to.Sub(r.from).Minutes()))
	return out.String() + s.String() + "</svg>\n", nil
}

func (s *picture) panel(p panel, at box, lines []line, r *reader) {
	s.add(`<g><title>%s</title>`, html.EscapeString(strings.TrimSpace(p.title+": "+p.about)))
	s.add(`<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="2" fill="#fff" stroke="#e3e4e5"/>`, at.x, at.y, at.w, at.h)
	s.text(at.x+pad, at.y+18, `font-size="12" font-weight="600"`, shorten(p.title, at.w-2*pad, 7))
	switch {
	case len(lines) == 0:
		s.text(at.x+at.w/2, at.y+at.h/2+8, `font-size="13" text-anchor="middle" fill="#8e8e8e"`, "No data")
	case p.single:
		points := lines[0].points
		v, color := points[len(points)-1].F, "#37872D"
		if p.bad != 0 && v >= p.bad {
			color = "#C4162A"
		}
		s.text(at.x+at.w/2, at.y+at.h/2+24, fmt.Sprintf(`font-size="34" font-weight="600" text-anchor="middle" fill="%s"`, color), format(p.unit, v))
	default:
		s.graph(p, at, lines, r)
	}
	s.add(`</g>`)
}

// graph draws lines above their legend, which shows as many names as there is room.
func (s *picture) graph(p panel, at box, lines []line, r *reader) {
	names, rows := s.legend(at, lines)
	plot := box{at.x + axis, at.y + 30, at.w - axis - pad, at.h - 30 - 26 - float64(rows*legendRow)}
	top, step := scale(p.unit, lines)
	for v := 0.0; v <= top*1.0001; v += step {
		y := plot.y + plot.h*(1-v/top)
		s.add(`<path d="M%.0f %.1fh%.0f" stroke="#eceded"/>`, plot.x, y, plot.w)
		s.text(plot.x-5, y+4, `font-size="10" text-anchor="end" fill="#6e7277"`, format(p.unit, v))
	}
	for i := range 4 {
		t := r.from.Add(r.to.Sub(r.from) * time.Duration(2*i+1) / 8)
		s.text(plot.x+plot.w*float64(2*i+1)/8, plot.y+plot.h+14, `font-size="10" text-anchor="middle" fill="#6e7277"`, t.UTC().Format("15:04"))
	}
	begin, span := timestamp.FromTime(r.from), float64(r.to.Sub(r.from).Milliseconds())
	for i, l := range lines {
		var d strings.Builder
		last := int64(math.MinInt64)
		for j, f := range l.points {
			pen := "L"
			if f.T-last > scrapeEvery.Milliseconds() && last != math.MinInt64 || d.Len() == 0 { // a gap
				pen = "M"
			}
			last = f.T
			if pen == "L" && j+1 < len(l.points) && l.points[j-1].F == f.F && l.points[j+1].F == f.F && l.points[j+1].T-f.T <= scrapeEvery.Milliseconds() {
				continue // amid a level line
			}
			fmt.Fprintf(&d, "%s%.0f %.1f", pen, plot.x+plot.w*float64(f.T-begin)/span, plot.y+plot.h*(1-max(f.F, 0)/top))
		}
		if len(l.points) == 1 {
			d.WriteString("h1")
		}
		s.add(`<path d="%s" fill="none" stroke="%s" stroke-width="1.3" stroke-linejoin="round"/>`, d.String(), palette[i%len(palette)])
	}
	s.WriteString(names)
}

// legend is the names of lines below a graph, in three rows at the most.
func (s *picture) legend(at box, lines []line) (drawn string, rows int) {
	var out picture
	type entry struct {
		name, color string
		x           float64
		row         int
	}
	var entries []entry
	x, row := at.x+pad, 0
	for i, l := range lines {
		name := shorten(l.name, at.w-2*pad-24-70, 6.2)
		if name == "" {
			continue
		}
		width, room := 24+6.2*float64(len([]rune(name))), at.x+at.w-pad
		if row == 2 && i < len(lines)-1 {
			room -= 70
		}
		if x+width > room && x > at.x+pad {
			if row == 2 {
				entries = append(entries, entry{fmt.Sprintf("and %d more", len(lines)-i), "none", x - 14, row})
				break
			}
			x, row = at.x+pad, row+1
		}
		entries = append(entries, entry{name, palette[i%len(palette)], x, row})
		x += width
	}
	if len(entries) == 0 {
		return "", 0
	}
	rows = entries[len(entries)-1].row + 1
	for _, e := range entries {
		y := at.y + at.h - 8 - float64((rows-1-e.row)*legendRow)
		out.add(`<path d="M%.0f %.0fh10" stroke="%s" stroke-width="3"/>`, e.x, y-4, e.color)
		out.text(e.x+14, y, `font-size="10.5"`, e.name)
	}
	return out.String(), rows
}

// shorten cuts text to a width, at so much a letter.
func shorten(text string, width, letter float64) string {
	r := []rune(text)
	if most := int(width / letter); len(r) > most {
		return string(r[:max(most-1, 0)]) + "…"
	}
	return text
}

// scale is a round top above all values, and the step of its grid.
func scale(unit string, lines []line) (top, step float64) {
	for _, l := range lines {
		for _, f := range l.points {
			top = max(top, f.F)
		}
	}
	if top == 0 {
		return 1, 0.5
	}
	// Round are whole minutes, hours and MiB.
	base := 1.0
	switch {
	case unit == "bytes":
		base = math.Pow(1024, math.Floor(math.Log(top)/math.Log(1024)))
	case unit == "s" && top >= 7200:
		base = 3600
	case unit == "s" && top >= 120:
		base = 60
	}
	top /= base
	step = math.Pow(10, math.Floor(math.Log10(top/2)))
	for _, m := range []float64{1, 2, 5, 10} {
		if top/(step*m) <= 4 {
			step *= m
			break
		}
	}
	return math.Ceil(top/step) * step * base, step * base
}

// format is a value with its unit, as Grafana writes it.
func format(unit string, v float64) string {
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
	scaled := func(v float64, base float64, units ...string) string {
		i := 0
		for ; v >= base && i < len(units)-1; i++ {
			v /= base
		}
		if v >= 100 {
			v = math.Round(v)
		}
		return strings.TrimSpace(strconv.FormatFloat(v, 'g', 4, 64) + units[i])
	}
	switch unit {
	case "percentunit":
		return number(100*v) + " %"
	case "percent":
		return number(v) + " %"
	case "bytes":
		return scaled(v, 1024, " B", " KiB", " MiB", " GiB")
	case "ops", "reqps":
		return scaled(v, 1000, "", " K", " M") + map[string]string{"ops": " ops/s", "reqps": " req/s"}[unit]
	case "ms":
		return format("s", v/1000)
	case "s":
		switch {
		case v == 0:
			return "0 s"
		case v < 0.001:
			return number(v*1e6) + " µs"
		case v < 1:
			return number(v*1000) + " ms"
		case v < 120:
			return number(v) + " s"
		case v < 7200:
			return number(v/60) + " min"
		default:
			return number(v/3600) + " h"
		}
	}
	return scaled(v, 1000, "", " K", " M", " G")
}
