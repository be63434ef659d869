// Command cmd is the hand of make.sh, the script that makes the test images: it fills mounted
// filesystems, writes and compares manifests, and does what no shell tool can.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"asyncfsd/internal/manifest"

	"github.com/klauspost/compress/zstd"
)

// command is one sub-command: its arguments as the usage shows them, and what runs.
type command struct {
	name, args string
	min        int // arguments needed
	run        func(args []string) error
}

func commands() []command {
	return []command{
		{"walk", "ROOT OUT", 2, walk},
		{"diff", "[-ignore FIELD,FIELD] MANIFEST ROOT", 2, diff},
		{"unpack", "DIR NAME PATH", 3, unpack},
		{"list", "DIR", 1, list},
		{"row", "DIR KEY=VALUE…", 2, row},
		{"fill", "KIND DIR [ARG…]", 2, fill},
		{"shutdown", "MOUNTPOINT FLAG", 2, shutdown},
		{"encrypt", "MOUNTPOINT DIR FLAGS", 3, encrypt},
		{"lock", "MOUNTPOINT", 1, lock},
		{"verity", "FILE", 1, verity},
		{"supercsum", "IMAGE", 1, superCsum},
		{"addhashes", "IMAGE OFFSET SIZE", 3, addHashes},
		{"mbr", "IMAGE NUMBER,TYPE,SECTOR,SECTORS…", 2, mbr},
		{"gpt", "IMAGE SECTOR,SECTORS…", 2, gpt},
	}
}

func main() {
	if len(os.Args) > 1 {
		for _, c := range commands() {
			if c.name != os.Args[1] {
				continue
			}
			if len(os.Args)-2 < c.min {
				break
			}
			if err := c.run(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", strings.Join(os.Args[1:], " "), err)
				os.Exit(2)
			}
			return
		}
	}
	for _, c := range commands() {
		fmt.Fprintln(os.Stderr, "usage:", c.name, c.args)
	}
	os.Exit(1)
}

// manifestPlainMax is the size in bytes from which a manifest is written compressed.
const manifestPlainMax = 16 << 10

// walk writes the manifest of the tree ROOT to OUT, or to OUT.zst if it is large.
func walk(args []string) error {
	entries, err := manifest.Walk(args[0])
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := manifest.Encode(&text, entries); err != nil {
		return err
	}
	os.Remove(args[1])
	os.Remove(args[1] + ".zst")
	if text.Len() <= manifestPlainMax {
		return os.WriteFile(args[1], []byte(text.String()), 0o644)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	return os.WriteFile(args[1]+".zst", enc.EncodeAll([]byte(text.String()), nil), 0o644)
}

// diff compares the tree ROOT with a manifest and fails if anything differs.
func diff(args []string) error {
	set := flag.NewFlagSet("diff", flag.ContinueOnError)
	ignore := set.String("ignore", "", "comma-separated fields")
	if err := set.Parse(args); err != nil {
		return err
	}
	path := set.Arg(0)
	if _, err := os.Stat(path); err != nil {
		path += ".zst"
	}
	want, err := manifest.Load(path)
	if err != nil {
		return err
	}
	have, err := manifest.Walk(set.Arg(1))
	if err != nil {
		return err
	}
	lines := manifest.Diff(want, have, manifest.Options{Ignore: strings.Split(*ignore, ",")})
	for i, line := range lines {
		if i == 20 {
			break
		}
		fmt.Println(line)
	}
	if len(lines) > 0 {
		return fmt.Errorf("%d differences", len(lines))
	}
	return nil
}
