package compilecache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Layers returns the newest layer for each prefix that names begin with. Those
// of no prefix are removed: the caller names all that it will ask for, before
// any container runs.
func (s *Store) Layers(prefixes ...string) (map[string]string, error) {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return nil, fmt.Errorf("compile cache: layers: %w", err)
	}
	layers, times := map[string]string{}, map[string]time.Time{}
	var stale []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("compile cache: layers: %w", err)
		}
		dir, prefix := s.path("layers", e.Name()), ""
		for _, p := range prefixes {
			if strings.HasPrefix(e.Name(), p+"-") && e.IsDir() {
				prefix = p
			}
		}
		switch {
		case prefix == "" || info.ModTime().Before(times[prefix]):
			stale = append(stale, dir)
		default:
			if old := layers[prefix]; old != "" {
				stale = append(stale, old)
			}
			layers[prefix], times[prefix] = dir, info.ModTime()
		}
	}
	if err := removeAll(stale); err != nil {
		return nil, fmt.Errorf("compile cache: old layers: %w", err)
	}
	return layers, nil
}

// LayerClaim is the right to write a layer.
type LayerClaim struct {
	Claim
	target string
}

// ClaimLayer returns the right to write the layer of a name, whose files are to
// lie at target, an absolute path inside a container. It is nil if somebody
// else has it, or there is that layer.
func (s *Store) ClaimLayer(name, target string) *LayerClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := "layer " + name
	if _, err := os.Lstat(s.path("layers", name)); err == nil || s.claimed[key] {
		return nil
	}
	s.claimed[key] = true
	return &LayerClaim{Claim: Claim{store: s, key: key}, target: target}
}

// Base makes a layer with an empty folder at the target, for the container that
// will write the real one. It stays until the claim ends.
func (c *LayerClaim) Base() (string, error) {
	dir, err := c.folder("base")
	if err != nil {
		return "", err
	}
	if _, err := makeTarget(dir, c.target); err != nil {
		return "", fmt.Errorf("compile cache: %w", err)
	}
	return dir, nil
}

// makeTarget makes a path below dir whose folders everybody may pass.
func makeTarget(dir, target string) (string, error) {
	for name := range strings.SplitSeq(strings.Trim(target, "/"), "/") {
		dir = filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Keep takes what is in the scratch folder as the layer, returns its folder and
// ends the claim.
func (c *LayerClaim) Keep() (string, Result, error) {
	defer c.GiveUp()
	dir, result, err := c.keep()
	if err != nil {
		return "", result, fmt.Errorf("compile cache: layer: %w", err)
	}
	return dir, result, nil
}

func (c *LayerClaim) keep() (string, Result, error) {
	layer, err := c.folder("layer")
	if err != nil {
		return "", Result{}, err
	}
	into, err := makeTarget(layer, c.target)
	if err != nil {
		return "", Result{}, err
	}
	result, err := collect(filepath.Join(c.partial, scratchName), into, c.store.limits)
	if err != nil {
		return "", result, err
	}
	if result.Files == 0 {
		return "", result, errors.New("the worker has written nothing")
	}
	result.Useful = true
	dir := c.store.path("layers", strings.TrimPrefix(c.key, "layer "))
	return dir, result, os.Rename(layer, dir)
}
