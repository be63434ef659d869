package asyncq

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// EngineKinds are the kinds that NewEngine takes, the usual one first.
var EngineKinds = []string{"auto", "uring", "aio"}

// NewEngine makes an engine for I/O of about depth requests at once: "uring", "aio", or for ""
// and "auto" io_uring where it is allowed and Linux AIO elsewhere, in which case why tells in a
// line for the log what is used instead of io_uring and for what reason. EINVAL: no such kind.
func NewEngine(kind string, depth int) (e Engine, why string, err error) {
	switch kind {
	case "uring":
		e, err = orNil(NewUring(depth))
		return e, "", explain("io_uring", err)
	case "aio":
		e, err = orNil(NewAIO(depth))
		return e, "", explain("Linux AIO", err)
	case "", "auto":
	default:
		return nil, "", fmt.Errorf("unknown kind of I/O %q: %w", kind, unix.EINVAL)
	}
	if e, err = orNil(NewUring(depth)); err == nil {
		return e, "", nil
	}
	// ENOSYS, EPERM and EACCES are what a kernel, a seccomp filter or a sysctl that forbid it
	// answer; whatever else keeps io_uring from working is no reason to fail, either.
	why = fmt.Sprintf("io_uring is not to be had (%v), using Linux AIO", err)
	other, err2 := orNil(NewAIO(depth))
	if err2 != nil {
		return nil, "", errors.Join(explain("io_uring", err), explain("Linux AIO", err2))
	}
	return other, why, nil
}

// orNil keeps a nil pointer from becoming a non-nil Engine.
func orNil[E interface {
	comparable
	Engine
}](e E, err error) (Engine, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}

func explain(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}
