// Package nftable tells whether an nftables table of SanFran's is as it was
// installed. Others may flush it: a restart of the distribution's firewall
// (`nft flush ruleset`) takes every table of the node away.
package nftable

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Watched is a table and its chains. Safe for concurrent use.
type Watched struct {
	table  *nftables.Table
	chains []string

	mu sync.Mutex
	// handles are the kernel's numbers of the table's rules, in their order: no
	// two rules of a table ever have the same.
	handles []uint64
}

// Watch notes the rules of a table (of the family inet) that has just been
// installed. A chain without rules cannot be told from one that is gone.
func Watch(name string, chains ...string) (*Watched, error) {
	w := &Watched{table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}, chains: chains}
	return w, w.Installed()
}

// Exists says whether there is a table of that name (of the family inet).
func Exists(name string) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	switch _, err := conn.ListTableOfFamily(name, nftables.TableFamilyINet); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	default:
		return false, fmt.Errorf("look for nftables table inet %s: %w", name, err)
	}
}

// Installed notes the rules again, after they were installed anew.
func (w *Watched) Installed() error {
	handles, err := w.read()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handles = handles
	return nil
}

// Intact says whether the rules are those that were installed, all of them.
func (w *Watched) Intact() (bool, error) {
	handles, err := w.read()
	if err != nil {
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Equal(handles, w.handles), nil
}

// read asks for these chains only: the node may have thousands of others.
func (w *Watched) read() ([]uint64, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var handles []uint64
	for _, chain := range w.chains {
		rules, err := conn.GetRules(w.table, &nftables.Chain{Name: chain, Table: w.table})
		if err != nil {
			return nil, fmt.Errorf("read nftables table inet %s: %w", w.table.Name, err)
		}
		for _, rule := range rules {
			handles = append(handles, rule.Handle)
		}
	}
	return handles, nil
}
