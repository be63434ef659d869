package asyncq_test

import (
	"fmt"
	"time"

	"asyncfsd/asyncq"
)

// An operation is started on a handle, waited for, and released. With nobody running the loop,
// the calls turn it themselves: one goroutine is enough.
func Example() {
	engine := asyncq.NewSim(1)
	loop := asyncq.New(asyncq.Config{Engine: engine, Now: engine.Now})
	defer loop.Close()

	short, _ := loop.Start(loop.Timer().Handle(), int64(time.Minute), true, nil)
	long, _ := loop.Start(loop.Timer().Handle(), int64(time.Hour), true, nil)

	statuses := make([]asyncq.State, 2)
	n, _ := loop.Wait([]asyncq.DescID{short, long}, statuses)
	fmt.Println(n, statuses[0], statuses[1])

	_, err := loop.Release(short)
	fmt.Println("short:", err)
	_ = loop.Cancel(long)
	_, err = loop.Release(long)
	fmt.Println("long:", err)
	// Output:
	// 1 done parked
	// short: <nil>
	// long: operation canceled
}

// Taking a lock is an operation like any other: it completes when the lock is held, and its
// descriptor is the lock. Nobody is blocked by one who waits.
func ExampleLocks() {
	engine := asyncq.NewSim(1)
	loop := asyncq.New(asyncq.Config{Engine: engine, Now: engine.Now})
	defer loop.Close()
	lock := asyncq.NewLocks(loop, 1).Handle(0)

	first, _ := loop.Start(lock, 0, false, nil)
	second, _ := loop.Start(lock, 0, false, nil)
	statuses := make([]asyncq.State, 2)
	_, _ = loop.Wait([]asyncq.DescID{first, second}, statuses)
	fmt.Println(statuses[0], statuses[1])

	_, _ = loop.Release(first) // unlocks
	_, _ = loop.Wait([]asyncq.DescID{second}, statuses)
	fmt.Println(statuses[0])
	_, _ = loop.Release(second)
	// Output:
	// done parked
	// done
}

// A lent buffer cannot be reached until the operation that has it completes.
func ExampleBuffer() {
	engine := asyncq.NewSim(1)
	loop := asyncq.New(asyncq.Config{Engine: engine, Now: engine.Now})
	defer loop.Close()
	manual := asyncq.NewManual(loop)
	buffer := asyncq.NewBuffer(make([]byte, 4096))

	id, _ := loop.Start(manual.Handle(), 0, true, buffer)
	_, err := buffer.Bytes()
	fmt.Println(err)
	manual.Finish(id, 512)
	n, _ := loop.Release(id)
	mem, err := buffer.Bytes()
	fmt.Println(n, len(mem), err)
	// Output:
	// device or resource busy
	// 512 4096 <nil>
}
