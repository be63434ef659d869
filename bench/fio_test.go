package main

import (
	"strings"
	"testing"
)

// report is fio 3.33's, cut down to one job of a group.
const report = `fio: note that is not JSON
{
  "fio version" : "fio-3.33",
  "global options" : {},
  "jobs" : [
    {
      "jobname" : "bench", "groupid" : 0, "error" : 0, "elapsed" : 2,
      "read" : {
        "io_bytes" : 1053081600, "io_kbytes" : 1028400, "bw_bytes" : 1052029570,
        "bw" : 1027372, "iops" : 256842.156843, "runtime" : 1001, "total_ios" : 257100
      },
      "write" : { "io_bytes" : 0, "bw_bytes" : 0, "iops" : 0.0, "total_ios" : 0 }
    }
  ]
}
fio: and one behind it
`

func TestParseFio(t *testing.T) {
	got, err := parseFio([]byte(report))
	want := fioDirection{IOs: 257100, IOPS: 256842.156843, Bandwidth: 1052029570}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestParseFioRefuses(t *testing.T) {
	job := report[strings.Index(report, `{
      "jobname"`):strings.LastIndex(report, "  ]")]
	for _, c := range []struct{ name, old, new, want string }{
		{"failed job", `"error" : 0`, `"error" : 5`, "failed with error 5"},
		{"no reads", `"total_ios" : 257100`, `"total_ios" : 0`, "neither read nor wrote"},
		{"cut off", "  ]\n}", "", "fio's report"},
		{"no JSON", report, "fio: bad option\n", "no report: fio: bad option"},
		{"no jobs", job, "", "0 jobs"},
		{"two jobs", job, job + "," + job, "2 jobs"},
	} {
		text := strings.Replace(report, c.old, c.new, 1)
		if text == report {
			t.Fatalf("%s: nothing was replaced", c.name)
		}
		_, err := parseFio([]byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
}
