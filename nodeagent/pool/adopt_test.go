package pool_test

import (
	"testing"
	"testing/synctest"

	"sanfran.dev/nodeagent/pool"
)

func TestAdoptedItemsAreAsIfStartedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p, err := pool.New(pool.Config[*item]{Start: f.start, Destroy: destroy})
		if err != nil {
			t.Fatal(err)
		}
		warm := []*item{{id: 100}, {id: 101}, {id: 102}}
		leased := &item{id: 200}
		for _, it := range warm {
			p.Adopt(it, false)
		}
		p.Adopt(leased, true)
		synctest.Wait()
		if s := p.Stats(); s.Target != 3 || s.Warm != 3 || s.Leased != 1 || s.Warming != 0 {
			t.Errorf("after adoption: %+v", s)
		}
		got, err := p.Acquire(t.Context())
		if err != nil || got != warm[0] {
			t.Errorf("acquired %v, %v; want the oldest", got, err)
		}
		if err := p.Done(leased); err != nil {
			t.Error(err)
		}
		if err := p.SetTarget(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := p.Stats(); s.Warm != 1 || s.Leased != 1 || len(f.all()) != 0 {
			t.Errorf("after a lower target: %+v, %d started", s, len(f.all()))
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
