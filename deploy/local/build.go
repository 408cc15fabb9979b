package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func newBuildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build [program...]",
		Short: "build the cluster's programs that are not in the cache yet",
		RunE: func(command *cobra.Command, names []string) error {
			if err := checkBuild(names); err != nil {
				return err
			}
			_, err := build(command.Context(), os.Stderr, names)
			return err
		},
	}
}

func newBinDirCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bin-dir",
		Short: "print the folder with kubectl, helm, ctr, runc and the rest, for PATH",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			dir, err := binDir()
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), dir)
			}
			return err
		},
	}
}

// binaries maps a program's file name to where its cached build lies.
type binaries map[string]string

// missing tells which of the named programs (all, if none is named) are not in
// the cache.
func missing(names []string) ([]program, error) {
	var found []program
	known := map[string]bool{}
	for _, p := range programs() {
		known[p.name] = true
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		dir, _, err := locate(p)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err != nil {
			found = append(found, p)
		}
	}
	for _, name := range names {
		if !known[name] {
			return nil, fmt.Errorf("there is no program %q to build", name)
		}
	}
	return found, nil
}

// locate tells where p's binaries are or will be, and where its module is.
func locate(p program) (dir, module string, err error) {
	cache, err := cacheDir()
	if err != nil {
		return "", "", err
	}
	source, err := sourceDir()
	if err != nil {
		return "", "", err
	}
	module = filepath.Join(source, p.module)
	key, err := cacheKey(p, module, runtime.Version(), runtime.GOARCH)
	if err != nil {
		return "", "", err
	}
	return filepath.Join(cache, "bin", p.name+"-"+key), module, nil
}

// build builds what is missing of the named programs (all, if none is named),
// one at a time, and tells where every one of them is.
func build(ctx context.Context, progress io.Writer, names []string) (binaries, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	view, err := binDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(view, 0o755); err != nil {
		return nil, err
	}
	if lacking, err := missing(names); err != nil {
		return nil, err
	} else if len(lacking) > 0 {
		unlock, err := lockFile(ctx, filepath.Join(cache, "bin", ".lock"), func() {
			fmt.Fprintln(progress, "build: another build is running; waiting for it")
		})
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	found := binaries{}
	for _, p := range programs() {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		dir, module, err := locate(p)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err != nil {
			if err := buildProgram(ctx, progress, p, module, dir); err != nil {
				return nil, err
			}
		}
		for _, name := range p.outputs {
			found[name] = filepath.Join(dir, name)
		}
		for name := range p.aliases {
			found[name] = filepath.Join(dir, name)
		}
	}
	for name, target := range found {
		if err := link(target, filepath.Join(view, name)); err != nil {
			return nil, fmt.Errorf("link to %s: %w", target, err)
		}
	}
	return found, nil
}

// buildProgram compiles p into a folder beside dir and renames it, so that dir
// is complete whenever it is there.
func buildProgram(ctx context.Context, progress io.Writer, p program, module, dir string) error {
	parent := filepath.Dir(dir)
	if old, err := filepath.Glob(filepath.Join(parent, ".building-"+p.name+"-*")); err == nil {
		for _, leftover := range old { // of a build that was cut off; we hold the lock
			os.RemoveAll(leftover)
		}
	}
	temporary, err := os.MkdirTemp(parent, ".building-"+p.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)

	start := time.Now()
	fmt.Fprintf(progress, "%s: looking at what there is to compile\n", p.name)
	total, err := countStale(ctx, p, module)
	if err != nil {
		return err
	}
	arguments := append([]string{"build", "-buildvcs=false", "-v", "-o", temporary + "/"}, p.arguments()...)
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = module
	command.Env = append(os.Environ(), append([]string{"GOWORK=off"}, p.environment...)...)
	output, err := command.StderrPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("%s: go build: %w", p.name, err)
	}
	var (
		mu       sync.Mutex
		done     int
		messages bytes.Buffer
	)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			mu.Lock()
			if line := lines.Text(); strings.ContainsAny(line, " #:") && !strings.HasPrefix(line, "go: downloading") {
				fmt.Fprintln(&messages, line)
			} else {
				done++
			}
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-tick.C:
			mu.Lock()
			fmt.Fprintln(progress, progressLine(p.name, done, total, time.Since(start)))
			mu.Unlock()
		}
	}
	if err := command.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: build stopped: %w", p.name, context.Cause(ctx))
		}
		return fmt.Errorf("%s: go build in %s: %w\n%s", p.name, module, err, messages.String())
	}
	for alias, target := range p.aliases {
		if err := os.Symlink(target, filepath.Join(temporary, alias)); err != nil {
			return err
		}
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	if err := os.Rename(temporary, dir); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	fmt.Fprintf(progress, "%s: built in %s\n", p.name, time.Since(start).Round(time.Second))
	return nil
}

// progressLine is one line of news about a build: packages compiled, time
// taken, and what is left if the rest goes as fast. Packages differ much in
// size and linking counts as none, so no estimate is given before a tenth is
// done, nor for the last steps.
func progressLine(name string, done, total int, taken time.Duration) string {
	line := fmt.Sprintf("%s: %d of %d packages compiled, %s", name, min(done, total), total, taken.Round(time.Second))
	switch {
	case done >= total-2:
		return line + ", linking"
	case done*10 < total:
		return line
	}
	left := time.Duration(float64(taken) / float64(done) * float64(total-done))
	if left < time.Minute {
		return line + ", less than a minute left"
	}
	return line + fmt.Sprintf(", about %d min left", int(left.Minutes()+0.5))
}

// countStale tells how many packages a build of p will compile.
func countStale(ctx context.Context, p program, module string) (int, error) {
	arguments := append([]string{"list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"}, p.arguments()...)
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = module
	command.Env = append(os.Environ(), append([]string{"GOWORK=off"}, p.environment...)...)
	var messages bytes.Buffer
	command.Stderr = &messages
	output, err := command.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: go list in %s: %w\n%s", p.name, module, err, messages.String())
	}
	return len(strings.Fields(string(output))), nil
}
