package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const resultsFile = "results.json"

// results is everything a run found out, and what results.json holds.
type results struct {
	Start    time.Time `json:"start"`
	Took     string    `json:"took"`
	Machine  machine   `json:"machine"`
	Settings settings  `json:"settings"`
	Warnings []string  `json:"warnings,omitempty"`
	// Measured counts single measurements, Disturbed those that began on a busy machine.
	Measured  int         `json:"measured"`
	Disturbed int         `json:"disturbed"`
	Systems   []string    `json:"systems"`
	Jobs      []jobResult `json:"jobs"`
}

// settings are the parts of the configuration that the figures depend on.
type settings struct {
	Rounds      int     `json:"rounds"`
	Seconds     float64 `json:"seconds_per_job"`
	DataMiB     int64   `json:"data_mib"`
	TreeEntries int     `json:"tree_entries"`
	SourceFiles int     `json:"source_files"`
	Backing     string  `json:"backing"` // filesystem type the image lies on
	LoopDirect  bool    `json:"loop_direct_io"`
	Options     string  `json:"asyncfsd_options"`
	Verified    bool    `json:"verified"`
}

// jobResult is one row: a job's figures by system.
type jobResult struct {
	Name   string             `json:"name"`
	Title  string             `json:"title"`
	Group  string             `json:"group"`
	Unit   string             `json:"unit"`
	Series map[string]*series `json:"systems"`
}

// series are the figures of one job on one system, a round each.
type series struct {
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Usage  *usage    `json:"daemon,omitempty"`
}

func newResults(b *bench) *results {
	res := &results{
		Start:   time.Now().UTC().Truncate(time.Second),
		Machine: thisMachine(b.cfg),
		Settings: settings{
			Rounds: b.cfg.rounds, Seconds: b.cfg.slice.Seconds(), DataMiB: b.cfg.size / mib,
			TreeEntries: b.census.entries, SourceFiles: b.sourceFiles,
			Backing: filesystemType(b.cfg.dir), LoopDirect: b.loopDirect,
			Options: b.cfg.options, Verified: b.cfg.verify,
		},
	}
	for _, s := range b.cfg.systems {
		res.Systems = append(res.Systems, s.name)
	}
	for _, j := range b.cfg.jobs {
		res.Jobs = append(res.Jobs, jobResult{j.name, j.title, j.group, j.unit,
			map[string]*series{}})
	}
	if b.cfg.direct && !b.loopDirect {
		res.Warnings = append(res.Warnings, "the loop device did not get direct I/O on its file")
	}
	return res
}

func (res *results) add(j job, s system, figure float64, used usage) {
	i := slices.IndexFunc(res.Jobs, func(r jobResult) bool { return r.Name == j.name })
	row := res.Jobs[i].Series
	if row[s.name] == nil {
		row[s.name] = &series{}
	}
	one := row[s.name]
	one.Values = append(one.Values, figure)
	if used.RSS > 0 {
		if one.Usage == nil {
			one.Usage = &usage{}
		}
		one.Usage.include(used)
	}
}

// noteBusy counts the measurements that began on a machine that was not quiet.
func (res *results) noteBusy(share float64) {
	res.Measured++
	if share > quietMax {
		res.Disturbed++
	}
}

func (res *results) finish() {
	for _, j := range res.Jobs {
		for _, s := range j.Series {
			s.Median, s.Min, s.Max = median(s.Values), slices.Min(s.Values), slices.Max(s.Values)
		}
	}
	if res.Disturbed > 0 {
		res.Warnings = append(res.Warnings, fmt.Sprintf("the machine was not quiet: just before "+
			"%d of %d measurements something else took more than %.0f %% of its CPUs",
			res.Disturbed, res.Measured, 100*quietMax))
	}
	res.Took = time.Since(res.Start).Round(time.Second).String()
}

func (res *results) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(res, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, resultsFile), append(text, '\n'), 0o644)
}

func readResults(dir string) (*results, error) {
	path := filepath.Join(dir, resultsFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	res := &results{}
	if err := json.Unmarshal(text, res); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return res, nil
}

// median of at least one value; of an even number it is the mean of the middle two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// timesAsFast is how many times as fast one system is as another by their medians: above 1 it
// is the faster one, in whatever unit. It is 0 if either has no figure.
func (j jobResult) timesAsFast(one, other string) float64 {
	a, b := j.Series[one], j.Series[other]
	if a == nil || b == nil || a.Median == 0 || b.Median == 0 {
		return 0
	}
	if j.Unit == unitSeconds {
		return b.Median / a.Median
	}
	return a.Median / b.Median
}
