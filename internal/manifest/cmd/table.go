package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"asyncfsd/internal/manifest"
)

// unpack writes image NAME of DIR to PATH.
func unpack(args []string) error {
	images, err := manifest.Images(args[0])
	if err != nil {
		return err
	}
	img, ok := manifest.Find(images, args[1])
	if !ok {
		return fmt.Errorf("no such image")
	}
	return img.UnpackTo(args[2])
}

// list prints a line for each image of DIR: what make.sh verify needs to know, separated by "|".
func list(args []string) error {
	images, err := manifest.Images(args[0])
	if err != nil {
		return err
	}
	for _, m := range images {
		dirty := ""
		if m.Dirty {
			dirty = "dirty"
		}
		fields := []string{m.Name, m.Source, strings.Join(m.Ignore, ","), dirty, m.Journal,
			strconv.FormatInt(m.Offset, 10), m.MountError, m.KernelCannot, m.Corrupt,
			strconv.FormatInt(m.Superblock, 10)}
		fmt.Println(strings.Join(fields, "|"))
	}
	return nil
}

// row replaces or adds the row of one image in DIR/images.json.
func row(args []string) error {
	var img manifest.Image
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		if value == "" {
			continue
		}
		if err := setField(&img, key, value); err != nil {
			return err
		}
	}
	images, err := manifest.Images(args[0])
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	images = slices.DeleteFunc(images, func(m manifest.Image) bool { return m.Name == img.Name })
	images = append(images, img)
	slices.SortFunc(images, func(a, b manifest.Image) int {
		return strings.Compare(a.Name, b.Name)
	})
	text, err := json.MarshalIndent(images, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(args[0], "images.json"), append(text, '\n'), 0o644)
}

func setField(img *manifest.Image, key, value string) (err error) {
	switch key {
	case "name":
		img.Name = value
	case "about":
		img.About = value
	case "made":
		img.Made = value
	case "size":
		img.Size, err = strconv.ParseInt(value, 10, 64)
	case "block_size":
		img.BlockSize, err = strconv.Atoi(value)
	case "features":
		img.Features = strings.Fields(value)
	case "source":
		img.Source = value
	case "ignore":
		img.Ignore = strings.Split(value, ",")
	case "dirty":
		img.Dirty = true
	case "journal":
		img.Journal = value
	case "offset":
		img.Offset, err = strconv.ParseInt(value, 10, 64)
	case "partition":
		img.Partition, err = strconv.Atoi(value)
	case "read_only":
		img.ReadOnly = value
	case "mount_error":
		img.MountError = value
	case "kernel_cannot":
		img.KernelCannot = value
	case "corrupt":
		img.Corrupt = value
	case "damaged":
		img.Damaged = strings.Split(value, ",")
	case "sb":
		img.Superblock, err = strconv.ParseInt(value, 10, 64)
	case "lookups":
		for pair := range strings.SplitSeq(value, ",") {
			asked, found, _ := strings.Cut(pair, ">")
			img.Lookups = append(img.Lookups, [2]string{asked, found})
		}
	default:
		err = fmt.Errorf("no such field: %s", key)
	}
	return err
}
