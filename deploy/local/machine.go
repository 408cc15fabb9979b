package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// machine is the record of what clusters changed on the machine itself. It is
// shared by all of them; the last one to go puts everything back.
type machine struct {
	path string
	// Sysctls are the values from before, by name.
	Sysctls map[string]string `json:"sysctls"`
	// Dirs are the folders that were made, in order.
	Dirs []string `json:"dirs"`
}

// machineSysctls are the kernel's settings that clusters need. The kernel.*
// and vm.* ones a kubelet would set by itself.
var machineSysctls = map[string]string{
	"net/ipv4/ip_forward":           "1",
	"fs/inotify/max_user_instances": "1024",
	"vm/overcommit_memory":          "1",
	"vm/panic_on_oom":               "0",
	"kernel/panic":                  "10",
	"kernel/panic_on_oops":          "1",
	"kernel/keys/root_maxkeys":      "1000000",
	"kernel/keys/root_maxbytes":     "25000000",
}

func openMachine() (*machine, error) {
	path := filepath.Join(stateBase(), "machine.json")
	m, err := readJSON[machine](path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	m.path = path
	if m.Sysctls == nil {
		m.Sysctls = map[string]string{}
	}
	return &m, nil
}

func (m *machine) save() error {
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(m.path, content, 0o644)
}

// set changes a setting of the kernel, having noted its value from before.
func (m *machine) set(name, value string) error {
	file := filepath.Join("/proc/sys", name)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // this kernel has no such thing to be changed
	}
	if err != nil {
		return err
	}
	have := strings.TrimSpace(string(raw))
	if have == value {
		return nil
	}
	if _, noted := m.Sysctls[name]; !noted {
		m.Sysctls[name] = have
		if err := m.save(); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(value), 0o644)
}

// makeDir makes a folder and those above it, having noted the new ones.
func (m *machine) makeDir(dir string) error {
	var lacking []string
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		lacking = append(lacking, dir)
	}
	slices.Reverse(lacking)
	for _, dir := range lacking {
		if !slices.Contains(m.Dirs, dir) {
			m.Dirs = append(m.Dirs, dir)
		}
	}
	if len(lacking) > 0 {
		if err := m.save(); err != nil {
			return err
		}
	}
	for _, dir := range lacking {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// restore puts everything back. Folders that hold something by now stay.
func (m *machine) restore() error {
	var failed []error
	for name, value := range m.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			failed = append(failed, err)
		}
	}
	for _, dir := range slices.Backward(m.Dirs) {
		os.Remove(dir)
	}
	if err := os.Remove(m.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
