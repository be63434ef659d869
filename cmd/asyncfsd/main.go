// Command asyncfsd mounts ext2, ext3 and ext4 filesystems, from image files and block devices,
// through FUSE.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"asyncfsd/internal/daemon"
)

// version is set by the Makefile.
var version = "unknown"

func main() {
	os.Exit(run(os.Args))
}

// run carries out a command line and returns the exit code.
func run(args []string) int {
	root := command()
	root.SetArgs(args[1:])
	// NB: mount(8) calls us as mount.fuse.asyncfsd, where "umount" would be a source.
	if strings.HasPrefix(filepath.Base(args[0]), "mount.") {
		root.ResetCommands()
		root.CompletionOptions.DisableDefaultCmd = true
	}
	err := root.Execute()
	if err == nil {
		return 0
	}
	var e *daemon.Error
	if !errors.As(err, &e) {
		e = &daemon.Error{Code: daemon.ExitUsage, Err: err}
	}
	fmt.Fprintf(os.Stderr, "asyncfsd: %s\n", strings.ReplaceAll(e.Error(), "\n", "; "))
	return e.Code
}

const long = `asyncfsd mounts the ext2, ext3 or ext4 filesystem in SOURCE, an image file or a
block device, on the directory MOUNTPOINT. It returns when the mount works, or says why it does
not. Arguments and options may come in any order, as mount(8) passes them.

This version mounts read-only. A dirty journal is replayed first.`

func command() *cobra.Command {
	m := &mountCommand{}
	root := &cobra.Command{Use: "asyncfsd [options] SOURCE MOUNTPOINT", Long: long,
		Short: "mount ext2/3/4 through FUSE", Args: cobra.ArbitraryArgs, RunE: m.run,
		SilenceErrors: true, SilenceUsage: true, Version: version}
	f := root.Flags()
	f.StringArrayVarP(&m.lists, "option", "o", nil, "mount options, separated by commas")
	f.StringVarP(&m.kind, "type", "t", "", "type, as mount(8) passes it (no effect)")
	f.BoolVarP(&m.verbose, "verbose", "v", false, "say more (no effect in the background)")
	f.BoolVarP(&m.foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	f.BoolVarP(&m.debug, "debug", "d", false, "the same, with debugging messages")
	f.BoolP("single", "s", false, "accepted for libfuse's sake (no effect)")
	f.BoolP("no-mtab", "n", false, "accepted for mount(8)'s sake (no effect)")
	f.BoolP("version", "V", false, "print the version")
	root.SetVersionTemplate("asyncfsd {{.Version}}\n")
	root.AddCommand(umountCommand(), manCommand(root))
	return root
}

func umountCommand() *cobra.Command {
	var lazy bool
	var timeout time.Duration
	c := &cobra.Command{Use: "umount MOUNTPOINT", Short: "unmount, and wait until all is done",
		Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return daemon.Umount(args[0], lazy, timeout)
		}}
	c.Flags().BoolVarP(&lazy, "lazy", "l", false, "detach now, end when nobody uses it any more")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait, 0 for ever")
	return c
}

func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "man DIRECTORY", Short: "write the manual pages", Hidden: true,
		Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Title: "ASYNCFSD", Section: "1", Source: version}
			return doc.GenManTree(root, header, args[0])
		}}
}
