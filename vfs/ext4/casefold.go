package ext4

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Directories with FlagCasefold find names whatever the case they are written in: two names are
// the same if they fold to the same. Folding is the kernel's NFDICF of Unicode 12.1: full case
// folding of every character, ignorable characters left out, canonical decomposition. A name
// that is not valid UTF-8, or has characters that Unicode 12.1 does not know, folds to nothing and
// equals itself alone.

// encodingUTF8 is the only s_encoding: UTF-8 of Unicode 12.1.
const encodingUTF8 = 1

// Bits of s_encoding_flags.
const (
	encodingStrict     = 1 // names that do not fold are not allowed
	encodingNoFallback = 2 // names are where the index says, see Lookup
)

// foldKnown says that the volume's encoding is one whose folding is known.
func (v *Volume) foldKnown() bool {
	return v.HasIncompat(IncompatCasefold) && v.u16(sEncoding) == encodingUTF8
}

func (v *Volume) foldStrict() bool { return v.u16(sEncodingFlags)&encodingStrict != 0 }

func (v *Volume) foldIndexExact() bool { return v.u16(sEncodingFlags)&encodingNoFallback != 0 }

// foldName returns what a name folds to, nil if it cannot be folded. It allocates.
func foldName(name []byte) []byte {
	for _, b := range name {
		if b >= utf8.RuneSelf {
			return foldText(name)
		}
	}
	folded := make([]byte, len(name))
	for i, b := range name {
		folded[i] = foldASCII(b)
	}
	return folded
}

func foldASCII(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// foldsTo tells whether a name folds to folded. It does not allocate for a name in ASCII.
func foldsTo(name, folded []byte) bool {
	for i, b := range name {
		if b >= utf8.RuneSelf {
			text := foldText(name)
			return text != nil && bytes.Equal(text, folded)
		}
		if i >= len(folded) || foldASCII(b) != folded[i] {
			// NB: no shortcut while a later character may make the name one that is ignored.
			return !isASCII(name[i:]) && bytes.Equal(foldText(name), folded)
		}
	}
	return len(name) == len(folded)
}

func isASCII(name []byte) bool {
	for _, b := range name {
		if b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// foldText folds a name that is not ASCII.
func foldText(name []byte) []byte {
	text := make([]byte, 0, 2*len(name))
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRune(name[i:])
		if r == utf8.RuneError && n <= 1 || !unicode.Is(unicode12, r) {
			return nil
		}
		if !unicode.Is(ignorable12, r) {
			text = append(text, name[i:i+n]...)
		}
		i += n
	}
	return norm.NFD.Bytes(cases.Fold().Bytes(text))
}
