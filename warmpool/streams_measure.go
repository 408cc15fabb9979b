package warmpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

const (
	// measureWithin is how long agents may take to measure: whoever asks waits for
	// ten seconds at most.
	measureWithin = 5 * time.Second
	// measureAtOnce is how many agents are asked at once.
	measureAtOnce = 32
)

// Measure asks every agent that is connected what it and its pods use, and returns
// what they say, by node. The error is of those that do not answer; what others say
// is returned all the same. These streams do not count among those of a node.
func (s *Streams) Measure(ctx context.Context) (map[string][]*streamsv1.Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	usage := map[string][]*streamsv1.Usage{}
	var asking sync.WaitGroup
	places := make(chan struct{}, measureAtOnce)
	for _, agent := range s.books.Agents() {
		if !agent.Connected {
			continue
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			said, err := s.measure(ctx, agent.Node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("measure on node %s: %w", agent.Node, err))
				return
			}
			usage[agent.Node] = said
		})
	}
	asking.Wait()
	return usage, errors.Join(errs...)
}

func (s *Streams) measure(ctx context.Context, node string) ([]*streamsv1.Usage, error) {
	st, err := s.call(ctx, node, &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Measure{Measure: &streamsv1.Measure{}}}, func() {})
	if err != nil {
		return nil, err
	}
	defer st.end()
	var said []*streamsv1.Usage
	for {
		m, err := st.receive()
		switch {
		case errors.Is(err, io.EOF):
			return said, nil
		case err != nil:
			return nil, err
		case m.GetUsage() != nil:
			said = append(said, m.GetUsage())
		}
	}
}
