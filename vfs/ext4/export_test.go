package ext4

// FoldStrict says whether names that are no text are refused in casefolded directories.
func (v *Volume) FoldStrict() bool { return v.foldStrict() }

// ErrnoOf is errnoOf.
func ErrnoOf(err error) error { return errnoOf(err) }
