package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"time"
)

// chart is one story of one lifetime, told of every fleet: a panel each, over the same time. The same runs make the same
// bytes. There is no background, and the colours can be read on a light page and on a dark one.
type chart struct {
	file, title, horizon string
	panels               []panel
}

// panel is the load of one fleet, over time.
type panel struct {
	title  string
	points []point
	// from and to are what is shown, in days; the trouble lasts for the troubled days before day 0.
	from, to, troubled float64
}

// point says that in the window that ends on a day there were so many tries, in parts of the mean.
type point struct{ day, load float64 }

const (
	chartWidth  = 860.0
	panelHeight = 96.0
	panelGap    = 44.0
	left, right = 64.0, 16.0
	top, bottom = 48.0, 48.0
	ink         = "#808080" // as far from white as from black
)

// charts has one for each story that has a file.
func charts(runs []run) []chart {
	var list []chart
	for _, l := range lifetimes {
		at := map[string]int{}
		for _, r := range runs {
			if r.lifetime != l || r.story.file == "" {
				continue
			}
			n, ok := at[r.story.file]
			if !ok {
				n, at[r.story.file] = len(list), len(list)
				c := chart{
					file: fmt.Sprintf("fleet-%s-%s.svg", r.story.file, l.file),
					title: fmt.Sprintf("%d certificates of %s, %s: tries in windows of %.3g h, each panel to its own scale", r.conditions.devices, l.name,
						r.story.name, windowOf(l.life).Hours()),
					horizon: "days since the first device was enrolled",
				}
				if r.story.trouble != noTrouble {
					c.horizon = "days since the trouble ended"
				}
				list = append(list, c)
			}
			list[n].panels = append(list[n].panels, panelOf(r))
		}
	}
	return list
}

// pointsAPanel is more than enough for the width of one.
const pointsAPanel = 400

// panelOf shows the first five lifetimes, or what is around the trouble.
func panelOf(r run) panel {
	c, bin := r.conditions, r.conditions.bin
	from, to, zero := time.Duration(0), min(c.span, 5*c.life), time.Duration(0)
	p := panel{title: fmt.Sprintf("%s: peak %.2f", r.population.name, r.load.before)}
	if t := c.trouble; t.kind != noTrouble {
		from, to, zero = t.to-c.life*15/100, min(c.span, t.to+c.life*30/100), t.to
		p.troubled = inDays(t.to - t.from)
		p.title = fmt.Sprintf("%s: peak %.2f meanwhile, %.2f after", r.population.name, r.load.during, r.load.after)
	}
	p.from, p.to = inDays(from-zero), inDays(to-zero)
	step := int((to-from)/bin)/pointsAPanel + 1
	for n := int(max(0, from)/bin) / step * step; n+step <= int(to/bin); n += step {
		busiest := 0 // of the windows that end in this step, so that no peak falls between two points
		for last := n; last < n+step; last++ {
			if first := last + 1 - binsAWindow; first >= 0 {
				busiest = max(busiest, r.outcome.window(first))
			}
		}
		end := time.Duration(n+step) * bin
		p.points = append(p.points, point{inDays(end - zero), float64(busiest) / r.load.mean})
	}
	return p
}

func inDays(d time.Duration) float64 { return d.Hours() / 24 }

// svg draws the chart (SVG 1.1).
func (c chart) svg() []byte {
	var b bytes.Buffer
	height := top + float64(len(c.panels))*(panelHeight+panelGap) - panelGap + bottom
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12" fill="%s">`+"\n",
		chartWidth, height, ink)
	text(&b, left, 18, "start", 15, c.title)
	for n, p := range c.panels {
		p.draw(&b, top+float64(n)*(panelHeight+panelGap))
	}
	text(&b, (left+chartWidth-right)/2, height-8, "middle", 12, c.horizon)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// draw draws the panel below a height.
func (p panel) draw(b *bytes.Buffer, y float64) {
	peak := 1.0
	for _, q := range p.points {
		peak = max(peak, q.load)
	}
	base := y + panelHeight
	across := func(day float64) float64 { return left + (day-p.from)/(p.to-p.from)*(chartWidth-left-right) }
	up := func(load float64) float64 { return base - load/peak*panelHeight }

	text(b, left, y-8, "start", 12, p.title)
	text(b, left-8, y-8, "end", 11, "× mean")
	if p.troubled > 0 {
		x := max(left, across(-p.troubled))
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#e08030" fill-opacity="0.3"/>`+"\n",
			x, y, across(0)-x, panelHeight)
	}
	for _, load := range ticks(0, peak, 3) {
		hairline(b, left, up(load), chartWidth-right, up(load), 0.3)
		text(b, left-8, up(load)+4, "end", 11, fmt.Sprintf("%.4g", load))
	}
	for _, day := range ticks(p.from, p.to, 10) {
		hairline(b, across(day), base, across(day), base+4, 1)
		text(b, across(day), base+17, "middle", 11, fmt.Sprintf("%.4g", day))
	}
	if len(p.points) == 0 {
		return
	}
	fmt.Fprintf(b, `<path fill="#4090d0" d="M%.1f %.1f`, max(left, across(p.points[0].day)), base)
	for _, q := range p.points {
		fmt.Fprintf(b, "L%.1f %.1f", max(left, across(q.day)), up(q.load))
	}
	fmt.Fprintf(b, `L%.1f %.1fZ"/>`+"\n", across(p.points[len(p.points)-1].day), base)
}

// ticks gives round numbers from low to high: about as many as are wanted.
func ticks(low, high float64, wanted int) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/float64(wanted))))
	for _, larger := range []float64{2, 2.5, 2} {
		if (high-low)/step <= 1.5*float64(wanted) {
			break
		}
		step *= larger
	}
	var list []float64
	for n := math.Ceil(low / step); n*step <= high; n++ {
		list = append(list, n*step)
	}
	return list
}

func hairline(b *bytes.Buffer, x1, y1, x2, y2, opacity float64) {
	fmt.Fprintf(b, `<path stroke="%s" stroke-opacity="%g" d="M%.1f %.1fL%.1f %.1f"/>`+"\n", ink, opacity, x1, y1, x2, y2)
}

func text(b *bytes.Buffer, x, y float64, anchor string, size int, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">`, x, y, anchor, size)
	// A bytes.Buffer takes everything.
	_ = xml.EscapeText(b, []byte(s))
	b.WriteString("</text>\n")
}
