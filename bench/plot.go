package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var plotTitles = map[string]string{
	groupRandom: "Random reads, IOPS (more is better)",
	groupStream: "Sequential reads, MiB/s (more is better)",
	groupWrite:  "Writes, IOPS and MiB/s (more is better)",
	groupMeta:   "Metadata and small files, ms (less is better)",
}

// Sizes of a plot: one tile per job side by side, each with a scale of its own, since the jobs
// of a group differ by orders of magnitude.
const (
	tileWidth  = 9.5 * vg.Centimeter
	tileHeight = 8 * vg.Centimeter
	titleRoom  = 1 * vg.Centimeter
	margin     = 0.3 * vg.Centimeter
)

// writePlots writes one SVG file per group of jobs: bars of the medians, with the lowest and
// highest round as error bars.
func writePlots(dir string, res *results) error {
	plot.DefaultFont.Variant, plotter.DefaultFont.Variant = "Sans", "Sans"
	for _, group := range groups(res) {
		var tiles []*plot.Plot
		for _, j := range res.Jobs {
			if j.Group != group {
				continue
			}
			tile, err := jobTile(res.Systems, j)
			if err != nil {
				return fmt.Errorf("plot of %s: %w", j.Name, err)
			}
			tiles = append(tiles, tile)
		}
		if err := writeSVG(filepath.Join(dir, group+".svg"), plotTitles[group], tiles); err != nil {
			return err
		}
	}
	return nil
}

func writeSVG(path, title string, tiles []*plot.Plot) error {
	width := tileWidth*vg.Length(len(tiles)) + 2*margin
	img := vgsvg.New(width, tileHeight+titleRoom+2*margin)
	canvas := draw.New(img)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Rectangle.Path())
	canvas.FillText(textStyle(14), vg.Point{X: width / 2, Y: canvas.Max.Y - margin - 12}, title)
	grid := draw.Tiles{Rows: 1, Cols: len(tiles), PadX: margin,
		PadTop: titleRoom + margin, PadBottom: margin, PadLeft: margin, PadRight: margin}
	for i, c := range plot.Align([][]*plot.Plot{tiles}, grid, canvas)[0] {
		tiles[i].Draw(c)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = img.WriteTo(f)
	return errors.Join(err, f.Close())
}

// textStyle is centred text of a size in points.
func textStyle(size vg.Length) text.Style {
	return text.Style{
		Color:   color.Black,
		Font:    font.From(plot.DefaultFont, size),
		XAlign:  draw.XCenter,
		Handler: plot.DefaultTextHandler,
	}
}

// bars are the figures of a job's tile in the shown unit, a bar each.
type bars struct {
	plotter.XYs
	plotter.YErrors
	names  []string
	labels []string
	colors []color.Color
	top    float64 // the highest round of all
}

func barsOf(order []string, j jobResult) bars {
	scale := 1.0
	if j.Unit == unitSeconds {
		scale = 1000
	}
	var b bars
	for _, name := range order {
		s := j.Series[name]
		if s == nil {
			continue
		}
		b.XYs = append(b.XYs, plotter.XY{X: float64(len(b.names)), Y: s.Median * scale})
		b.YErrors = append(b.YErrors, struct{ Low, High float64 }{
			(s.Median - s.Min) * scale, (s.Max - s.Median) * scale})
		b.names = append(b.names, strings.ReplaceAll(title(name), " ", "\n"))
		b.labels = append(b.labels, number(s.Median, j.Unit))
		b.colors = append(b.colors, barColor(name))
		b.top = max(b.top, s.Max*scale)
	}
	return b
}

func jobTile(order []string, j jobResult) (*plot.Plot, error) {
	p := plot.New()
	b := barsOf(order, j)
	if len(b.names) == 0 {
		return nil, errors.New("no figures")
	}
	p.Title.Text = j.Title
	p.Title.Padding = vg.Points(6)
	p.Y.Label.Text = shownUnit(j.Unit)
	p.Y.Tick.Marker = roundTicks{}
	p.NominalX(b.names...)
	lines := plotter.NewGrid()
	lines.Vertical.Color = nil
	lines.Horizontal.Color = color.Gray{Y: 225}
	p.Add(lines)
	for i, xy := range b.XYs {
		bar, err := plotter.NewBarChart(plotter.Values{xy.Y}, vg.Points(34))
		if err != nil {
			return nil, err
		}
		bar.XMin, bar.Color, bar.LineStyle.Width = xy.X, b.colors[i], 0
		p.Add(bar)
	}
	p.X.Width, p.X.Tick.Length, p.X.Tick.Label.YAlign = 0, 0, draw.YTop
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 9, 9
	ranges, err := plotter.NewYErrorBars(b)
	if err != nil {
		return nil, err
	}
	labels, err := valueLabels(b)
	if err != nil {
		return nil, err
	}
	p.Add(ranges, labels)
	// NB: last, since Add widens the axes.
	p.Y.Min, p.Y.Max = 0, b.top*1.12
	p.X.Min, p.X.Max = -0.6, float64(len(b.names))-0.4
	return p, nil
}

// valueLabels are the medians in figures, above the error bars.
func valueLabels(b bars) (*plotter.Labels, error) {
	at := make(plotter.XYs, len(b.XYs))
	for i, xy := range b.XYs {
		at[i] = plotter.XY{X: xy.X, Y: xy.Y + b.YErrors[i].High}
	}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: at, Labels: b.labels})
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].XAlign = draw.XCenter
	}
	labels.Offset = vg.Point{Y: vg.Points(4)}
	return labels, nil
}

// barColor is the colour of a system, from its #rrggbb.
func barColor(name string) color.Color {
	c := color.NRGBA{A: 255}
	for _, s := range systems {
		if s.name == name {
			_, _ = fmt.Sscanf(s.color, "#%02x%02x%02x", &c.R, &c.G, &c.B)
		}
	}
	return c
}

// roundTicks are about five ticks at 1, 2 or 5 times a power of ten, with commas in thousands.
type roundTicks struct{}

// Ticks implements plot.Ticker.
func (roundTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	step := roundStep((high - low) / 5)
	for i := math.Ceil(low / step); i*step <= high; i++ {
		label := strconv.FormatFloat(i*step, 'g', 3, 64)
		if i*step >= 1000 {
			label = thousands(int64(i*step + 0.5))
		}
		// The blanks keep the label off its tick where the font is not there and another is wider.
		ticks = append(ticks, plot.Tick{Value: i * step, Label: label + "  "})
	}
	return ticks
}

// roundStep is the smallest of 1, 2 and 5 times a power of ten that is not below least.
func roundStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= least {
			return factor * power
		}
	}
	return 10 * power
}
