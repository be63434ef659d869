package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// fioReport is what is used of fio's JSON.
type fioReport struct {
	Jobs []struct {
		Name  string       `json:"jobname"`
		Error int          `json:"error"`
		Read  fioDirection `json:"read"`
		Write fioDirection `json:"write"`
	} `json:"jobs"`
}

type fioDirection struct {
	IOs       int64   `json:"total_ios"`
	IOPS      float64 `json:"iops"`
	Bandwidth float64 `json:"bw_bytes"` // bytes per second
}

// fioTimed makes a job of direct, asynchronous reads that runs for the time of a slice. The
// figure is IOPS for random reads and MiB/s for sequential ones.
func fioTimed(args ...string) func(context.Context, *bench, target) (float64, error) {
	return func(ctx context.Context, b *bench, t target) (float64, error) {
		ms := fmt.Sprintf("%dms", b.cfg.slice.Milliseconds())
		timed := []string{"--direct=1", "--ioengine=libaio", "--norandommap",
			"--time_based", "--runtime=" + ms}
		read, err := b.fio(ctx, t, append(timed, args...)...)
		if args[0] == "--rw=read" {
			return read.Bandwidth / mib, err
		}
		return read.IOPS, err
	}
}

// fioBufferedOnce reads the file from end to end through the page cache, once: a second pass
// would find it there.
func fioBufferedOnce(ctx context.Context, b *bench, t target) (float64, error) {
	read, err := b.fio(ctx, t, "--rw=read", "--bs=1M", "--direct=0", "--ioengine=psync")
	return read.Bandwidth / mib, err
}

// fio runs one fio job on the target's data and returns its reads, or its writes if it has none.
// It never writes where that is not what is measured.
func (b *bench) fio(ctx context.Context, t target, args ...string) (fioDirection, error) {
	const grace = 60 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.slice+grace,
		fmt.Errorf("fio took %v longer than its time", grace))
	defer cancel()
	common := []string{"--name=bench", "--filename=" + t.data, "--group_reporting",
		"--output-format=json"}
	if !b.writing {
		common = append(common, "--readonly", fmt.Sprintf("--size=%d", b.cfg.size))
	}
	out, err := command(ctx, "fio", append(common, args...)...)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fioDirection{}, err
	}
	return parseFio(out)
}

// parseFio returns the reads of a report with one job or group. fio may print notes before the
// report.
func parseFio(out []byte) (fioDirection, error) {
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return fioDirection{}, fmt.Errorf("fio printed no report%s", tail(out))
	}
	var report fioReport
	if err := json.NewDecoder(bytes.NewReader(out[start:])).Decode(&report); err != nil {
		return fioDirection{}, fmt.Errorf("fio's report: %w", err)
	}
	if len(report.Jobs) != 1 {
		return fioDirection{}, fmt.Errorf("fio's report has %d jobs instead of 1", len(report.Jobs))
	}
	job := report.Jobs[0]
	if job.Error != 0 {
		return fioDirection{}, fmt.Errorf("fio's job %s failed with error %d", job.Name, job.Error)
	}
	switch {
	case job.Read.IOs > 0:
		return job.Read, nil
	case job.Write.IOs > 0:
		return job.Write, nil
	}
	return fioDirection{}, errors.New("fio neither read nor wrote")
}
