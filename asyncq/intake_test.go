package asyncq

import (
	"testing"
	"time"
)

// greedy takes in work while there are slots, and ends it at once.
type greedy struct {
	loop *Loop
	id   ProviderID
	work int
	done int
}

func (g *greedy) Intake() bool {
	for g.CanIntake() {
		g.work--
		g.loop.Table.Queue(g.loop.Table.Claim(g.id, false))
	}
	return false
}

func (g *greedy) CanIntake() bool { return g.work > 0 && g.loop.Table.Available() > 0 }

func (g *greedy) Resume(s Slot) {
	g.done++
	g.loop.Table.Release(s)
}

func (g *greedy) Complete(Token, int32) {}
func (g *greedy) Cancel(Slot)           {}

// TestCanIntake has the loop not sleep while an intaker could go on with slots that have become
// free without a completion.
func TestCanIntake(t *testing.T) {
	l := New(Config{Engine: NewSim(0), Slots: 2})
	defer l.Close()
	g := &greedy{loop: l, work: 13}
	g.id = l.Register("greedy", g)
	l.AddIntake(g)
	steps := make(chan error, 4)
	go func() {
		for range 4 {
			steps <- l.Step(true)
		}
	}()
	for i := range 4 {
		if i == 3 { // there is nothing more to come
			l.Engine().Wake()
		}
		select {
		case err := <-steps:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the loop sleeps")
		}
	}
	if g.done != 13 {
		t.Errorf("%d done", g.done)
	}
}

// TestStepAfterStop has whoever turns the loop after Run wait, and not spin.
func TestStepAfterStop(t *testing.T) {
	l := New(Config{Engine: NewSim(0)})
	defer l.Close()
	l.Stop()
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
	_ = l.Step(false) // takes what Stop has left in the engine
	begin := time.Now()
	time.AfterFunc(50*time.Millisecond, l.Engine().Wake)
	if err := l.Step(true); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < 40*time.Millisecond {
		t.Errorf("waited %v", d)
	}
}
