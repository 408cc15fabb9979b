package podaddress

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/nftable"
)

// TableName is the nftables table (family inet) that belongs to this package
// alone.
const TableName = "sanfran_podaddress"

// tproxy leads connections by a table of rules (see the file of the rules). The
// table outlives the process, and with it what is led where: its sets are what an
// earlier run had assigned and directed.
type tproxy struct {
	config Config
	agent  netip.AddrPort
	table  *nftables.Table
	rules  *nftable.Watched
	// led are the assigned addresses, and where they are directed to.
	led map[netip.Addr]sockets
}

// sockets are where each bucket of an address's connections is led; the zero AddrPort
// is the agent's listener.
type sockets [MaxListeners]netip.AddrPort

// openTProxy installs the table, or takes over that of an earlier run.
func openTProxy(config Config) (*tproxy, error) {
	t := &tproxy{config: config, table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}}
	if err := withListener(config.Listener, config.hasIPv6(), func(fd int) (err error) {
		t.agent, err = transparent(fd)
		return err
	}); err != nil {
		return nil, fmt.Errorf("lead function pods' addresses %v to the agent's listener: %w", config.CIDRs, err)
	}
	var err error
	if t.led, err = t.readTable(); err != nil {
		return nil, err
	}
	if err := t.install(false); err != nil {
		return nil, err
	}
	// The table stands: what an earlier run of the other way has left may go.
	if err := removeSkLookup(config.PinDir); err != nil {
		return nil, err
	}
	return t, nil
}

// transparent lets the kernel lead connections to other addresses to a listening
// socket, and returns its own.
func transparent(fd int) (netip.AddrPort, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("family of a listening socket: %w", err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_TRANSPARENT
	if family == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return netip.AddrPort{}, fmt.Errorf("make a listening socket transparent (needs CAP_NET_ADMIN): %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address of a listening socket: %w", err)
	}
	switch at := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%w: it is of another family: %T", ErrNotListener, name)
}

func (t *tproxy) assign(addr netip.Addr) error {
	if _, ok := t.led[addr]; !ok && len(t.led) >= MaxAddresses {
		return fmt.Errorf("%d addresses are assigned already, the most there can be", MaxAddresses)
	}
	return t.lead(addr, sockets{})
}

func (t *tproxy) direct(addr netip.Addr, fds []int) error {
	if _, ok := t.led[addr]; !ok {
		return ErrNotAssigned
	}
	var to sockets
	for i, fd := range fds {
		at, err := transparent(fd)
		if err != nil {
			return err
		}
		if at.Addr().Is6() && addr.Is4() {
			return fmt.Errorf("%w: it is bound to %v, which connections to IPv4 addresses cannot be led to by %s", ErrNotListener, at, TProxy)
		}
		for bucket := i; bucket < len(to); bucket += len(fds) {
			to[bucket] = at
		}
	}
	return t.lead(addr, to)
}

func (t *tproxy) park(addr netip.Addr) error {
	if _, ok := t.led[addr]; !ok {
		return nil
	}
	return t.lead(addr, sockets{})
}

// lead changes the table's sets in one transaction.
func (t *tproxy) lead(addr netip.Addr, to sockets) error {
	before, assigned := t.led[addr]
	if assigned && before == to {
		return nil
	}
	return t.change(func(conn *nftables.Conn) error {
		family := familyOfAddr(addr)
		var err error
		if !assigned {
			err = conn.SetAddElements(t.assignedSet(family), []nftables.SetElement{{Key: addr.AsSlice()}})
		}
		if before != (sockets{}) {
			err = errors.Join(err, conn.SetDeleteElements(t.socketsMap(family), socketElements(addr, before)))
		}
		if to != (sockets{}) {
			err = errors.Join(err, conn.SetAddElements(t.socketsMap(family), socketElements(addr, to)))
		}
		return err
	}, func() { t.led[addr] = to })
}

func (t *tproxy) remove(addr netip.Addr) error {
	before, assigned := t.led[addr]
	if !assigned {
		return nil
	}
	return t.change(func(conn *nftables.Conn) error {
		family := familyOfAddr(addr)
		err := conn.SetDeleteElements(t.assignedSet(family), []nftables.SetElement{{Key: addr.AsSlice()}})
		if before != (sockets{}) {
			err = errors.Join(err, conn.SetDeleteElements(t.socketsMap(family), socketElements(addr, before)))
		}
		return err
	}, func() { delete(t.led, addr) })
}

// change is one transaction. If somebody has taken the table away, it is installed
// anew with what is to be.
func (t *tproxy) change(transaction func(*nftables.Conn) error, done func()) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := transaction(conn); err != nil {
		return fmt.Errorf("nftables table inet %s: %w", TableName, err)
	}
	err = conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		done()
		return t.install(true)
	}
	if err != nil {
		return fmt.Errorf("change nftables table inet %s: %w", TableName, err)
	}
	done()
	return nil
}

func (t *tproxy) assigned() ([]netip.Addr, error) {
	return slices.Collect(maps.Keys(t.led)), nil
}

// mend installs the table anew if its rules or its sets are not what they were.
func (t *tproxy) mend() ([]string, error) {
	intact, err := t.rules.Intact()
	if err != nil {
		return nil, err
	}
	if intact {
		led, err := t.readTable()
		if err != nil {
			return nil, err
		}
		intact = maps.Equal(led, t.led)
	}
	if intact {
		return nil, nil
	}
	if err := t.install(true); err != nil {
		return nil, err
	}
	return []string{"nftables table inet " + TableName}, nil
}

// readTable is what the table's sets say; nothing without a table.
func (t *tproxy) readTable() (map[netip.Addr]sockets, error) {
	led := map[netip.Addr]sockets{}
	if there, err := nftable.Exists(TableName); err != nil || !there {
		return led, err
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	for _, family := range bothFamilies {
		elements, err := conn.GetSetElements(t.assignedSet(family))
		if err != nil {
			return nil, fmt.Errorf("read nftables table inet %s: %w", TableName, err)
		}
		for _, element := range elements {
			if addr, ok := netip.AddrFromSlice(element.Key); ok {
				led[addr] = sockets{}
			}
		}
		if elements, err = conn.GetSetElements(t.socketsMap(family)); err != nil {
			return nil, fmt.Errorf("read nftables table inet %s: %w", TableName, err)
		}
		for _, element := range elements {
			if addr, bucket, to, ok := parseSocketElement(element); ok {
				all := led[addr]
				all[bucket] = to
				led[addr] = all
			}
		}
	}
	return led, nil
}

func (t *tproxy) close() error { return nil }

func (t *tproxy) uninstall() error { return removeTable() }

// removeTable removes the table of this way, if there is one.
func removeTable() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table inet %s: %w", TableName, err)
	}
	return nil
}
