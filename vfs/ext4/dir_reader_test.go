package ext4

import (
	"slices"
	"testing"
)

// dirReader reads directories in as many steps as it takes.
type dirReader struct {
	t   testing.TB
	v   *Volume
	src Source
}

// readDir lists a directory.
func (r *dirReader) readDir(dir *Inode) (list []Dirent, err error) {
	var ent Dirent
	for pos := uint64(0); ; pos = ent.Off {
		switch err := r.v.ReadDir(r.src, dir, pos, &ent); err {
		case nil:
			list = append(list, Dirent{Name: slices.Clone(ent.Name), Ino: ent.Ino, Type: ent.Type})
		case ErrContinue:
		case ErrEOF:
			return list, nil
		default:
			return list, err
		}
	}
}

// lookup finds a name.
func (r *dirReader) lookup(dir *Inode, name []byte, ent *Dirent) error {
	var cur LookupCursor
	for {
		was := cur
		err := r.v.Lookup(r.src, dir, name, &cur, ent)
		if err != ErrContinue {
			return err
		}
		if cur == was {
			r.t.Fatalf("%q: the cursor stands still at %+v", name, cur)
		}
	}
}
