package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMarkdownFigures(t *testing.T) {
	want := strings.Join([]string{
		"|        | unit | raw device | kernel ext4 | asyncfsd | ÷ kernel ext4 |",
		"| ------ | ---: | ---------: | ----------: | -------: | ------------: |",
		"| a rate | IOPS |    260,000 |     205,000 |  123,000 |          0.60 |",
		"| a time |   ms |          – |        50.0 |     25.0 |          2.00 |",
		""}, "\n")
	if got := markdownFigures(sample()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMarkdownUsage(t *testing.T) {
	want := strings.Join([]string{
		"|        | asyncfsd, MiB | threads |",
		"| ------ | ------------: | ------: |",
		"| a rate |          50.0 |       7 |",
		"| a time |           1.0 |       5 |",
		""}, "\n")
	if got := markdownUsage(sample()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{264123.6, unitIOPS, "264,124"}, {999.4, unitIOPS, "999"}, {999.6, unitIOPS, "1,000"},
		{1234567, unitIOPS, "1,234,567"}, {84.26, unitMiB, "84.3"}, {0.0213, unitSeconds, "21.3"},
		{1.2345, unitSeconds, "1,235"}, {0.00213, unitSeconds, "2.13"},
	} {
		if got := number(c.v, c.unit); got != c.want {
			t.Errorf("%v %s is shown as %s, want %s", c.v, c.unit, got, c.want)
		}
	}
}

// TestReport writes table and plots: every plot that the table names is there, is well-formed
// XML and shows the medians of its group.
func TestReport(t *testing.T) {
	dir, res := t.TempDir(), sample()
	if err := writeReport(dir, res); err != nil {
		t.Fatal(err)
	}
	text := readText(filepath.Join(dir, "results.md"))
	for group, median := range map[string]string{groupRandom: "123,000", groupMeta: "25.0"} {
		if !strings.Contains(text, "]("+group+".svg)") {
			t.Errorf("the table does not show the plot %s", group)
		}
		svg, err := os.ReadFile(filepath.Join(dir, group+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(svg, []byte(">"+median+"<")) {
			t.Errorf("the plot %s does not show %s", group, median)
		}
		decoder := xml.NewDecoder(bytes.NewReader(svg))
		for err == nil {
			_, err = decoder.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the plot %s: %v", group, err)
		}
	}
}

func TestRoundTicks(t *testing.T) {
	for _, c := range []struct {
		top  float64
		want string
	}{
		{44000, "0 10,000 20,000 30,000 40,000"}, {1.1, "0 0.5 1"}, {620, "0 200 400 600"},
	} {
		var labels []string
		for _, tick := range (roundTicks{}).Ticks(0, c.top) {
			labels = append(labels, strings.TrimSpace(tick.Label))
		}
		if got := strings.Join(labels, " "); got != c.want {
			t.Errorf("up to %v: %s, want %s", c.top, got, c.want)
		}
	}
}
