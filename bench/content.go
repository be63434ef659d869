package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the jobs find things in the filesystem.
const (
	dataFile  = "data/file" // what fio reads
	statTree  = "tree"      // many small files, for find
	sourceDir = "src"       // a real source tree
	perDir    = 100         // files per directory of statTree
)

// census is what find must see in a tree: a wrong answer is not a fast one.
type census struct {
	entries int   // files and directories, the top included
	bytes   int64 // of the regular files
}

// populate fills the filesystem through the kernel and notes what is in it.
func (b *bench) populate(ctx context.Context) error {
	if err := unix.Mount(b.device, b.mountpoint, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mounting %s by the kernel: %w", b.device, err)
	}
	b.undo.push("unmounting", func() error { return unmount(b.mountpoint) })
	err := fillData(ctx, filepath.Join(b.mountpoint, dataFile), b.cfg.size)
	if err == nil {
		err = fillTree(ctx, filepath.Join(b.mountpoint, statTree), b.cfg.files)
	}
	if err == nil {
		b.sourceFiles, err = copyTree(ctx, b.cfg.source,
			filepath.Join(b.mountpoint, sourceDir), b.cfg.files)
	}
	if err == nil {
		b.census, err = count(filepath.Join(b.mountpoint, statTree))
	}
	return errors.Join(err, b.undo.pop())
}

// fillData writes random bytes, always the same, in pieces large enough for long extents.
func fillData(ctx context.Context, path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, 4*mib)
	for n := int64(0); n < size && err == nil; n += int64(len(piece)) {
		piece = piece[:min(int64(len(piece)), size-n)]
		_, _ = random.Read(piece)
		if err = ctx.Err(); err == nil {
			_, err = f.Write(piece)
		}
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// fillTree makes files of 0 to 6 KiB, perDir in a directory.
func fillTree(ctx context.Context, root string, files int) error {
	text := []byte(strings.Repeat("All work and no play makes Jack a dull boy.\n", 150))
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("dir%03d", i/perDir))
		if i%perDir == 0 {
			if err := errors.Join(ctx.Err(), os.MkdirAll(dir, 0o755)); err != nil {
				return err
			}
		}
		path := filepath.Join(dir, fmt.Sprintf("file%05d.txt", i))
		if err := os.WriteFile(path, text[:i*37%6144], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies the directories and the first filesMax regular files of source, in the order
// of the walk, and returns how many files it copied.
func copyTree(ctx context.Context, source, target string, filesMax int) (int, error) {
	copied := 0
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if copied == filesMax {
			return fs.SkipAll
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(target, rel), 0o755)
		case d.Type().IsRegular():
			copied++
			return copyFile(path, filepath.Join(target, rel))
		}
		return nil
	})
	if err == nil && copied == 0 {
		err = fmt.Errorf("-source %s: no files in it", source)
	}
	return copied, err
}

func copyFile(source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return os.WriteFile(target, data, 0o644)
}

func count(root string) (census, error) {
	var c census
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		c.entries++
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			c.bytes += info.Size()
		}
		return err
	})
	return c, err
}

// digest is a hash of everything the jobs read below a mountpoint: names, modes, sizes, data.
func digest(ctx context.Context, root string) (string, error) {
	h := sha256.New()
	for _, top := range []string{filepath.Dir(dataFile), statTree, sourceDir} {
		err := filepath.WalkDir(filepath.Join(root, top),
			func(path string, d fs.DirEntry, err error) error {
				if err = errors.Join(err, ctx.Err()); err != nil {
					return err
				}
				return digestOne(h, root, path, d)
			})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func digestOne(h io.Writer, root, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%s %v %d\n", rel, info.Mode(), info.Size())
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(h, f)
	return errors.Join(err, f.Close())
}
