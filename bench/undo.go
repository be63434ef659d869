package main

import (
	"fmt"
	"os"
)

// undo is a stack of what has to be taken back: mounts, daemons, the loop device, files.
type undo struct {
	steps []undoStep
}

type undoStep struct {
	what string
	run  func() error
}

func (u *undo) push(what string, run func() error) {
	u.steps = append(u.steps, undoStep{what, run})
}

// pop takes back the last step.
func (u *undo) pop() error {
	last := u.steps[len(u.steps)-1]
	u.steps = u.steps[:len(u.steps)-1]
	if err := last.run(); err != nil {
		return fmt.Errorf("%s: %w", last.what, err)
	}
	return nil
}

// downTo takes back all but the first n steps. A step that fails is reported and the others are
// still taken back.
func (u *undo) downTo(n int) {
	for len(u.steps) > n {
		if err := u.pop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: cleaning up:", err)
		}
	}
}
