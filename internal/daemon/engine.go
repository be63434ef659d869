package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/internal/overring"
)

// openEngine makes the engine of the mount's I/O: with a ring for each processor if requests are to
// come over io_uring, too.
func (i *Instance) openEngine() error {
	o := i.config.Options
	if o.Transport != "dev" {
		err := i.openRings()
		if err == nil {
			return nil
		}
		if o.Transport == "uring" {
			return fail(ExitSystem, fmt.Errorf("transport=uring: %w", err))
		}
		i.log.Debug("requests come by /dev/fuse", "why", err)
	}
	engine, why, err := asyncq.NewEngine(o.IO, engineDepth)
	if err != nil {
		return fail(ExitSystem, err)
	}
	if why != "" {
		i.log.Info(why)
	}
	i.engine = engine
	return nil
}

// openRings makes the rings of FUSE over io_uring, or says why there can be none.
func (i *Instance) openRings() error {
	if i.config.Options.IO == "aio" {
		return fmt.Errorf("io=aio: %w", unix.EINVAL)
	}
	if !overring.Allowed() {
		return fmt.Errorf("%s is not Y: %w", overring.Path, unix.EOPNOTSUPP)
	}
	possible, err := asyncq.PossibleCPUs()
	if err != nil {
		return err
	}
	cpus, err := asyncq.AllowedCPUs()
	if err != nil {
		return err
	}
	// NB: beyond, a thread for each would be many, and fewer would have to be woken on other
	// processors, which is what makes /dev/fuse the better way then.
	if possible > asyncq.RingsMax {
		return fmt.Errorf("for %d processors at most, not %d: %w", asyncq.RingsMax, possible,
			unix.EOPNOTSUPP)
	}
	rings, err := asyncq.NewRings(engineDepth, cpus)
	if err != nil {
		return err
	}
	i.engine, i.rings, i.possible = rings, rings, possible
	return nil
}
