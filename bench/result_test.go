package main

import (
	"math"
	"reflect"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{100, 2, 3}, 3},
		{[]float64{4, 1, 1000, 2}, 3},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("median changed the order of the rounds: %v", c.values)
		}
	}
}

func TestTimesAsFast(t *testing.T) {
	row := map[string]*series{"asyncfsd": {Median: 200}, "ext4": {Median: 400}, "raw": {}}
	for _, c := range []struct {
		unit, other string
		want        float64
	}{
		{unitIOPS, "ext4", 0.5}, // half the rate: half as fast
		{unitSeconds, "ext4", 2},
		{unitIOPS, "fuse2fs", 0},
		{unitIOPS, "raw", 0},
	} {
		j := jobResult{Unit: c.unit, Series: row}
		if got := j.timesAsFast("asyncfsd", c.other); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s, against %s: %v, want %v", c.unit, c.other, got, c.want)
		}
	}
}

// sample is a run of two rounds with three systems, one job of a rate and one of a time.
func sample() *results {
	rate := job{name: "rate", title: "a rate", group: groupRandom, unit: unitIOPS}
	walk := job{name: "walk", title: "a time", group: groupMeta, unit: unitSeconds}
	res := &results{Systems: []string{"raw", "ext4", "asyncfsd"}}
	for _, j := range []job{rate, walk} {
		res.Jobs = append(res.Jobs, jobResult{j.name, j.title, j.group, j.unit,
			map[string]*series{}})
	}
	for _, one := range []struct {
		j      job
		system string
		figure float64
		used   usage
	}{
		{rate, "raw", 250000, usage{}}, {rate, "raw", 270000, usage{}},
		{rate, "ext4", 200000, usage{}}, {rate, "ext4", 210000, usage{}},
		{rate, "asyncfsd", 120000, usage{RSS: 51200, Threads: 6}},
		{rate, "asyncfsd", 126000, usage{RSS: 40960, Threads: 7}},
		{walk, "ext4", 0.05, usage{}}, {walk, "asyncfsd", 0.025, usage{RSS: 1024, Threads: 5}},
	} {
		res.add(one.j, system{name: one.system}, one.figure, one.used)
	}
	res.finish()
	return res
}

func TestResults(t *testing.T) {
	res := sample()
	got := *res.Jobs[0].Series["asyncfsd"]
	used := *got.Usage
	got.Usage = nil
	want := series{Values: []float64{120000, 126000}, Median: 123000, Min: 120000, Max: 126000}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("series %+v, want %+v", got, want)
	}
	if used != (usage{RSS: 51200, Threads: 7}) {
		t.Errorf("usage %+v is not the peak of both rounds", used)
	}
	if res.Jobs[0].Series["ext4"].Usage != nil {
		t.Error("kernel ext4 has no daemon whose memory could be shown")
	}
}

func TestResultsSurviveTheFile(t *testing.T) {
	dir, res := t.TempDir(), sample()
	if err := res.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readResults(dir)
	if err != nil || !reflect.DeepEqual(got, res) {
		t.Fatalf("read back %+v, %v, want %+v", got, err, res)
	}
}

func TestBusyMachineIsWarnedOf(t *testing.T) {
	res := &results{}
	for _, share := range []float64{0, quietMax, 0.5, 0.02} {
		res.noteBusy(share)
	}
	res.finish()
	want := "the machine was not quiet: just before 1 of 4 measurements something else took " +
		"more than 10 % of its CPUs"
	if len(res.Warnings) != 1 || res.Warnings[0] != want {
		t.Errorf("warnings %q, want %q", res.Warnings, want)
	}
}
