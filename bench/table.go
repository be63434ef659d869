package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writeReport writes the table and the plots of the results.
func writeReport(dir string, res *results) error {
	err := os.WriteFile(filepath.Join(dir, "results.md"), []byte(markdown(res)), 0o644)
	return errors.Join(err, writePlots(dir, res))
}

// markdown is the whole of results.md.
func markdown(res *results) string {
	var w strings.Builder
	w.WriteString("# asyncfsd measured\n\n" +
		"Written by `make bench`. The same jobs on the same ext4 image on the same loop device,\n" +
		"mounted by each system in turn, read-only but for the jobs that write. Every figure\n" +
		"starts on a fresh mount and dropped caches; the systems alternate within each job and\n" +
		"their order rotates.\n\n")
	for _, warning := range res.Warnings {
		fmt.Fprintf(&w, "**Warning: %s.**\n\n", warning)
	}
	w.WriteString("## Medians\n\n" + markdownFigures(res) + "\n")
	w.WriteString("“÷” is how many times as fast asyncfsd is; with times, less is better.\n\n")
	for _, group := range groups(res) {
		fmt.Fprintf(&w, "![%s](%s.svg)\n\n", plotTitles[group], group)
	}
	w.WriteString("## Lowest and highest round\n\n" + markdownRanges(res) + "\n")
	if usage := markdownUsage(res); usage != "" {
		w.WriteString("## Memory and threads of the daemons\n\n" +
			"Peak resident memory and most threads seen, over all rounds of a job.\n\n" +
			usage + "\n")
	}
	w.WriteString("## Measured on\n\n" + markdownMachine(res))
	return w.String()
}

// markdownFigures is the table of medians and ratios.
func markdownFigures(res *results) string {
	heads := []string{"", "unit"}
	heads = append(heads, titles(res.Systems)...)
	var against []string // systems that asyncfsd is compared with
	if slices.Contains(res.Systems, "asyncfsd") {
		for _, name := range []string{"ext4", "fuse2fs"} {
			if slices.Contains(res.Systems, name) {
				against = append(against, name)
				heads = append(heads, "÷ "+title(name))
			}
		}
	}
	var rows [][]string
	for _, j := range res.Jobs {
		row := []string{j.Title, shownUnit(j.Unit)}
		for _, name := range res.Systems {
			row = append(row, cell(j, name, func(s *series) string {
				return number(s.Median, j.Unit)
			}))
		}
		for _, name := range against {
			row = append(row, ratio(j.timesAsFast("asyncfsd", name)))
		}
		rows = append(rows, row)
	}
	return table(heads, rows)
}

func markdownRanges(res *results) string {
	heads := append([]string{"", "unit"}, titles(res.Systems)...)
	var rows [][]string
	for _, j := range res.Jobs {
		row := []string{j.Title, shownUnit(j.Unit)}
		for _, name := range res.Systems {
			row = append(row, cell(j, name, func(s *series) string {
				return number(s.Min, j.Unit) + " – " + number(s.Max, j.Unit)
			}))
		}
		rows = append(rows, row)
	}
	return table(heads, rows)
}

// markdownUsage is the table of what the daemons took, or nothing if there were none.
func markdownUsage(res *results) string {
	heads := []string{""}
	var daemons []string
	for _, name := range res.Systems {
		if slices.ContainsFunc(res.Jobs, func(j jobResult) bool {
			return j.Series[name] != nil && j.Series[name].Usage != nil
		}) {
			daemons = append(daemons, name)
			heads = append(heads, title(name)+", MiB", "threads")
		}
	}
	if daemons == nil {
		return ""
	}
	var rows [][]string
	for _, j := range res.Jobs {
		row := []string{j.Title}
		for _, name := range daemons {
			memory, threads := "–", "–"
			if s := j.Series[name]; s != nil && s.Usage != nil {
				memory = fmt.Sprintf("%.1f", float64(s.Usage.RSS)/1024)
				threads = fmt.Sprint(s.Usage.Threads)
			}
			row = append(row, memory, threads)
		}
		rows = append(rows, row)
	}
	return table(heads, rows)
}

func markdownMachine(res *results) string {
	m, s := res.Machine, res.Settings
	var w strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&w, "- "+format+"\n", args...) }
	line("%s, took %s", res.Start.Format("2006-01-02 15:04 MST"), res.Took)
	line("kernel %s, %d CPUs (%s), %.1f GiB of memory", m.Kernel, m.CPUs, m.CPU, m.MemoryGiB)
	line("load average before: %s", m.Load)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		if m.Versions[name] != "" {
			line("%s: %s", name, m.Versions[name])
		}
	}
	direct := "without"
	if s.LoopDirect {
		direct = "with"
	}
	line("image on %s, loop device %s direct I/O, ext4 with 4 KiB blocks", s.Backing, direct)
	line("%d rounds; %g s per time-based job; data file of %d MiB; %d entries for find; "+
		"%d source files", s.Rounds, s.Seconds, s.DataMiB, s.TreeEntries, s.SourceFiles)
	if slices.Contains(res.Systems, "asyncfsd") {
		line("asyncfsd mounted with -o %s", s.Options)
	}
	if s.Verified {
		line("all data and attributes that are read here were compared with what the kernel reads")
	}
	return w.String()
}

// cell is what show makes of a system's series, or a dash if the job does not run there.
func cell(j jobResult, system string, show func(*series) string) string {
	if s := j.Series[system]; s != nil {
		return show(s)
	}
	return "–"
}

// table formats a Markdown table, its columns aligned; all but the first two are right-aligned.
func table(heads []string, rows [][]string) string {
	widths := make([]int, len(heads))
	for _, row := range append([][]string{heads}, rows...) {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)), 3)
		}
	}
	var w strings.Builder
	line := func(row []string) {
		for i, text := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(text)))
			if i == 0 {
				w.WriteString("| " + text + pad + " |")
			} else {
				w.WriteString(" " + pad + text + " |")
			}
		}
		w.WriteByte('\n')
	}
	line(heads)
	for i, width := range widths {
		if i == 0 {
			w.WriteString("| " + strings.Repeat("-", width) + " |")
		} else {
			w.WriteString(" " + strings.Repeat("-", width-1) + ": |")
		}
	}
	w.WriteByte('\n')
	for _, row := range rows {
		line(row)
	}
	return w.String()
}

func titles(names []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, title(name))
	}
	return all
}

// title is a system's name for people.
func title(name string) string {
	for _, s := range systems {
		if s.name == name {
			return s.title
		}
	}
	return name
}

// shownUnit is the unit that number shows a figure in.
func shownUnit(unit string) string {
	if unit == unitSeconds {
		return "ms"
	}
	return unit
}

// number shows a figure of a unit in its shown unit with three digits at least.
func number(v float64, unit string) string {
	if unit == unitSeconds {
		v *= 1000
	}
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return thousands(int64(v + 0.5))
}

// format is number with the unit behind it.
func format(v float64, unit string) string {
	return number(v, unit) + " " + shownUnit(unit)
}

// thousands sets commas.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func ratio(r float64) string {
	if r == 0 {
		return "–"
	}
	if r < 10 {
		return fmt.Sprintf("%.2f", r)
	}
	return fmt.Sprintf("%.1f", r)
}

// groups lists the groups of the results' jobs in their order.
func groups(res *results) []string {
	var all []string
	for _, j := range res.Jobs {
		if !slices.Contains(all, j.Group) {
			all = append(all, j.Group)
		}
	}
	return all
}
