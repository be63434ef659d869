// Command asyncfsd mounts ext2, ext3 and ext4 filesystems, from image files and block devices,
// through FUSE.
//
// Called as mount.fuse.asyncfsd or umount.fuse.asyncfsd it is the helper of mount(8) or umount(8).
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"asyncfsd/internal/daemon"
)

// version is set by the Makefile.
var version = ""

func main() {
	os.Exit(run(os.Args))
}

// run carries out a command line and returns the exit code.
func run(args []string) int {
	root := commandFor(filepath.Base(args[0]))
	root.SetArgs(args[1:])
	err := root.Execute()
	if err == nil {
		return 0
	}
	var e *daemon.Error
	if !errors.As(err, &e) {
		e = &daemon.Error{Code: daemon.ExitUsage, Err: err}
	}
	if reported := (*reportedError)(nil); !errors.As(err, &reported) {
		say(e.Error())
	}
	return e.Code
}

// say writes one line to stderr.
func say(text string) {
	fmt.Fprintf(os.Stderr, "asyncfsd: %s\n", strings.ReplaceAll(text, "\n", "; "))
}

// commandFor returns the command that the program's name asks for. NB: as mount(8) calls us,
// "umount" would be a source, and flags have another meaning.
func commandFor(name string) *cobra.Command {
	switch {
	case strings.HasPrefix(name, "mount."):
		return mountHelper(name)
	case strings.HasPrefix(name, "umount."):
		return umountHelper(name)
	}
	return command()
}

const long = `asyncfsd mounts the ext2, ext3 or ext4 filesystem in SOURCE, an image file or a
block device, on the directory MOUNTPOINT. It returns when the mount works, or says why it does
not. Arguments and options may come in any order, as mount(8) passes them.

A dirty journal is replayed first. What cannot be written is mounted read-only, with a message.

Exit codes: 0 success, 1 usage, 2 system error, 32 mount failure.`

func command() *cobra.Command {
	m := &mountCommand{}
	root := &cobra.Command{Use: "asyncfsd [options] SOURCE MOUNTPOINT", Long: long,
		Short: "mount ext2/3/4 through FUSE", Args: cobra.ArbitraryArgs, RunE: m.run}
	basics(root)
	m.common(root)
	f := root.Flags()
	f.BoolVarP(&m.foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	f.BoolP("single", "s", false, "accepted for libfuse's sake (no effect)")
	root.AddCommand(umountCommand(), versionCommand(), manCommand(root))
	return root
}

// common are the flags of asyncfsd and of mount(8)'s helper alike.
func (m *mountCommand) common(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&m.lists, "option", "o", nil, "mount options, separated by commas")
	f.BoolVarP(&m.debug, "debug", "d", false, "stay in the foreground, with debugging messages")
	f.StringP("type", "t", "", "type, as mount(8) passes it (no effect)")
	f.BoolP("verbose", "v", false, "accepted for mount(8)'s sake (no effect)")
	f.BoolP("no-mtab", "n", false, "accepted for mount(8)'s sake (no effect)")
}

// mountHelper is the command as mount(8) calls it: HELPER SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]
// [-t TYPE].
func mountHelper(name string) *cobra.Command {
	m := &mountCommand{}
	c := &cobra.Command{Use: name + " SOURCE MOUNTPOINT [options]", Long: long,
		Short: "mount ext2/3/4 through FUSE, for mount(8)", Args: cobra.ArbitraryArgs, RunE: m.run}
	basics(c)
	m.common(c)
	f := c.Flags()
	f.BoolVarP(&m.fake, "fake", "f", false, "look at the options, but do not mount")
	f.BoolVarP(&m.sloppy, "sloppy", "s", false, "ignore options that are not known")
	return c
}

// umountHelper is the command as umount(8) calls it: HELPER MOUNTPOINT [-flnrv] [-t TYPE].
func umountHelper(name string) *cobra.Command {
	var o daemon.UmountOptions
	c := &cobra.Command{Use: name + " MOUNTPOINT [options]", Args: cobra.ExactArgs(1),
		Short: "unmount and wait until all is done, for umount(8)",
		RunE: func(_ *cobra.Command, args []string) error {
			// Who detaches or forces wants to be rid of it now.
			o.NoWait = o.Lazy || o.Force
			o.Timeout = umountTimeout
			return daemon.Umount(args[0], o)
		}}
	basics(c)
	f := c.Flags()
	f.BoolVarP(&o.Lazy, "lazy", "l", false, "detach now, end when nobody uses it any more")
	f.BoolVarP(&o.Force, "force", "f", false, "fail what is under way")
	f.BoolP("no-mtab", "n", false, "no effect")
	f.BoolP("read-only", "r", false, "no effect")
	f.BoolP("verbose", "v", false, "no effect")
	f.StringP("type", "t", "", "no effect")
	return c
}

// basics is what all commands share: one line for an error, and the version.
func basics(c *cobra.Command) {
	c.SilenceErrors, c.SilenceUsage = true, true
	c.Version = versionText()
	c.Flags().BoolP("version", "V", false, "print the version")
	c.SetVersionTemplate("asyncfsd {{.Version}}\n")
}

// versionText is what the Makefile set, or what the Go tool knows of a build without it.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintf(c.OutOrStdout(), "asyncfsd %s\n", versionText())
		}}
}

// umountTimeout is how long umount waits for a daemon by default.
const umountTimeout = time.Minute

func umountCommand() *cobra.Command {
	var o daemon.UmountOptions
	c := &cobra.Command{Use: "umount MOUNTPOINT", Short: "unmount, and wait until all is done",
		Long: `Unmounts and returns when the daemon has written and closed everything and ends.`,
		Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return daemon.Umount(args[0], o)
		}}
	f := c.Flags()
	f.BoolVarP(&o.Lazy, "lazy", "l", false, "detach now, end when nobody uses it any more")
	f.BoolVar(&o.Force, "force", false, "fail what is under way, for a daemon that hangs")
	f.DurationVar(&o.Timeout, "timeout", umountTimeout, "how long to wait, 0 for ever")
	return c
}

func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "man DIRECTORY", Short: "write the manual pages", Hidden: true,
		Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Title: "ASYNCFSD", Section: "1", Source: versionText()}
			return doc.GenManTree(root, header, args[0])
		}}
}
