// Package tidy holds the tests of the project's style: what habits of the code can be checked by
// a program is checked here, so that nobody has to argue about it.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	root     = "../.."
	linesMax = 70  // of a function
	widthMax = 100 // of a line, in characters, a tab counted as four
)

// layers are the packages from the top down: each may import those after it only.
var layers = []string{"cmd/asyncfsd", "internal/daemon", "fusefs", "vfs/recovery", "vfs",
	"vfs/jbd2", "vfs/ext4", "blockdev", "asyncq"}

type source struct {
	path string // relative to the root
	file *ast.File
	text []byte
}

func sources(t *testing.T, set *token.FileSet) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(set, path, text, parser.ParseComments)
		rel, _ := filepath.Rel(root, path)
		all = append(all, source{rel, file, text})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(all))
	}
	return all
}

func TestLineWidth(t *testing.T) {
	for _, s := range sources(t, token.NewFileSet()) {
		for i, line := range strings.Split(string(s.text), "\n") {
			width := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
			if width > widthMax {
				t.Errorf("%s:%d: %d characters, at most %d", s.path, i+1, width, widthMax)
			}
		}
	}
}

func TestFunctionLength(t *testing.T) {
	set := token.NewFileSet()
	for _, s := range sources(t, set) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
			if n > linesMax {
				t.Errorf("%s: %s has %d lines, at most %d", s.path, f.Name.Name, n, linesMax)
			}
		}
	}
}

// TestDocComments wants a comment on every exported declaration outside of tests.
func TestDocComments(t *testing.T) {
	for _, s := range sources(t, token.NewFileSet()) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					t.Errorf("%s: %s has no comment", s.path, d.Name.Name)
				}
			case *ast.GenDecl:
				checkSpecs(t, s.path, d)
			}
		}
	}
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

func checkSpecs(t *testing.T, path string, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
				t.Errorf("%s: type %s has no comment", path, spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					t.Errorf("%s: %s has no comment", path, name.Name)
				}
			}
		}
	}
}

func TestImportsGoDown(t *testing.T) {
	level := map[string]int{}
	for i, name := range layers {
		level[name] = i + 1
	}
	for _, s := range sources(t, token.NewFileSet()) {
		own := level[filepath.Dir(s.path)]
		if own == 0 || strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		for _, imp := range s.file.Imports {
			name := strings.TrimPrefix(strings.Trim(imp.Path.Value, `"`), "asyncfsd/")
			if other := level[name]; other != 0 && other <= own {
				t.Errorf("%s imports %s, which is above it", s.path, name)
			}
		}
	}
}

// TestNoOpenEnds wants them in the issue tracker or the README, not in the code.
func TestNoOpenEnds(t *testing.T) {
	for _, s := range sources(t, token.NewFileSet()) {
		for _, group := range s.file.Comments {
			for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
				if strings.Contains(group.Text(), word) {
					t.Errorf("%s: a comment says %s", s.path, word)
				}
			}
		}
	}
}
