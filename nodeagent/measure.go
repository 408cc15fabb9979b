package nodeagent

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sanfran.dev/nodeagent/container"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// podsAtOnce is how many pods one message tells of.
const podsAtOnce = 1000

// measure says what everything uses. Only pods with a container cost more than a
// few numbers.
func (s *streams) measure(c *inquiry) error {
	if err := c.opened(nil); err != nil {
		return err
	}
	at := time.Now()
	node, err := s.agent.measureNode()
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no container has been there yet
		s.agent.log.Error("what the containers use together", "err", err)
	}
	if err := c.send(usageMessage(&streamsv1.Usage{At: timestamppb.New(at), Node: nodeUsage(node)})); err != nil {
		return err
	}
	for pods := range slices.Chunk(s.agent.pods.all(), podsAtOnce) {
		usage := &streamsv1.Usage{At: timestamppb.Now()}
		for _, p := range pods {
			if s := p.status(); s.State != Active && s.State != Parked {
				continue // no container of it runs
			}
			m := p.meter.measure(c.ctx)
			usage.Pods = append(usage.Pods, &streamsv1.PodUsage{
				PodUid: p.spec.PodUID, CpuNanoseconds: uint64(m.cpu), MemoryBytes: uint64(m.memory), StartedAt: timestamppb.New(p.meter.since),
			})
		}
		if err := c.send(usageMessage(usage)); err != nil {
			return err
		}
	}
	return nil
}

func usageMessage(u *streamsv1.Usage) *streamsv1.AnswerRequest {
	return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Usage{Usage: u}}
}

func nodeUsage(u container.Usage) *streamsv1.NodeUsage {
	return &streamsv1.NodeUsage{CpuNanoseconds: uint64(u.CPU), MemoryBytes: uint64(u.WorkingSet)}
}
