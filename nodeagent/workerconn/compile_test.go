package workerconn

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheNameOfCompileCachesIsKnownWhenWarm(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm","compileCache":"v24-x64-1-65534"}`)
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.CompileCache(); got != "v24-x64-1-65534" {
		t.Error(got)
	}
}

func TestCompileWaitsForTheAnswer(t *testing.T) {
	c, p := connect(t, nil)
	if err := c.Compile(t.Context()); err == nil {
		t.Error("while the worker boots")
	}
	go func() {
		p.say(`{"type":"warm"}`)
		for _, answer := range []string{"compiled", "ready", "compiled"} { // before there is a function, and after
			asked := p.hear()
			if diff := cmp.Diff(map[string]any{"type": "compile"}, asked); diff != "" && answer == "compiled" {
				t.Error(diff)
			}
			p.say(`{"type":"` + answer + `"}`)
		}
	}()
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Compile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Activate(t.Context(), Activation{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Compile(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := c.Compile(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestCompileIsGivenUpAndNotAskedTwice(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm"}`)
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { p.hear(); cancel() }()
	if err := c.Compile(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := c.Compile(t.Context()); err == nil {
		t.Error("a second call before the first was answered")
	}
}

func TestCompiledUnaskedBreaksTheProtocol(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm"}`, `{"type":"compiled"}`)
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}
