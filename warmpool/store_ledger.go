package warmpool

import (
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// Home is where a pod was when the ledger was last written. An assignment's
// content is not in the ledger: Kubernetes has it, and it may hold Secrets.
type Home struct {
	Node  string
	Epoch *agentv1.Epoch
	// Content is a digest of the assignment's content, so that a pod that
	// changed while nobody looked is told from one that did not.
	Content string
}

type ledgerRecord struct {
	Node       string `json:"node"`
	Generation uint64 `json:"generation"`
	Counter    uint64 `json:"counter"`
	Content    string `json:"content"`
}

// WriteLedger sets the homes of pods by UID; an empty Node removes one.
func (s *Store) WriteLedger(homes map[string]Home) error {
	if len(homes) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		ledger := tx.Bucket(bucketLedger)
		for uid, home := range homes {
			if home.Node == "" {
				if err := ledger.Delete([]byte(uid)); err != nil {
					return err
				}
				continue
			}
			value, err := json.Marshal(ledgerRecord{home.Node, home.Epoch.GetGeneration(), home.Epoch.GetCounter(), home.Content})
			if err != nil {
				return err
			}
			if err := ledger.Put([]byte(uid), value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the ledger (%d pods): %w", len(homes), err)
	}
	return nil
}

// ReadLedger returns the homes of all pods by UID.
func (s *Store) ReadLedger() (map[string]Home, error) {
	homes := make(map[string]Home)
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketLedger).ForEach(func(uid, value []byte) error {
			var r ledgerRecord
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("the ledger's record of pod %s: %w", uid, err)
			}
			homes[string(uid)] = Home{
				Node:    r.Node,
				Epoch:   &agentv1.Epoch{Generation: r.Generation, Counter: r.Counter},
				Content: r.Content,
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return homes, nil
}
