package main

import (
	"fmt"
	"net/netip"
)

// bothFamilies parses at most one value of IPv4 and one of IPv6, in any order; one
// that is not given is zero.
func bothFamilies[T any](texts []string, parse func(string) (T, error), is4 func(T) bool) (v4, v6 T, err error) {
	var has4, has6 bool
	for _, text := range texts {
		value, err := parse(text)
		if err != nil {
			return v4, v6, err
		}
		has, to := &has6, &v6
		if is4(value) {
			has, to = &has4, &v4
		}
		if *has {
			return v4, v6, fmt.Errorf("%q: give one of IPv4 and one of IPv6 at most", texts)
		}
		*has, *to = true, value
	}
	return v4, v6, nil
}

func isPrefix4(p netip.Prefix) bool { return p.Addr().Is4() }
