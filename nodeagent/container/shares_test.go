package container

import "testing"

func TestSetsUserSysctls(t *testing.T) {
	for version, want := range map[string]bool{
		"runc version 1.5.2\nspec: 1.3.0\n": true,
		"runc version 1.4.0-rc.2\n":         true,
		"runc version 2.0.0\n":              true,
		"runc version 1.1.5+ds1\ncommit: x": false,
		"runc version 1.3.4\n":              false,
		"crun version 1.8.1\n":              false,
		"":                                  false,
	} {
		if got := setsUserSysctls(version); got != want {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}
