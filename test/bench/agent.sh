#!/usr/bin/env bash
# Measures the node agent by itself, with real containers and without a cluster,
# and writes docs/bench/agent.md and agent.json. With --long 1,000 containers are
# started in a row, into agent-long.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
printed=$PWD/bin/agent-benchmarks.txt
: >"$printed"
# Each with as many turns as its figures need to mean something.
measure() { RACE=0 internal/tools/integration.sh -run '^$' -bench "^Benchmark$1\$" -benchtime "$2" -count "$3" ./nodeagent | tee -a "$printed"; }
if [ "${1:-}" = --long ]; then
  measure ContainerStarts 1000x 1
  name=agent-long
else
  measure ColdActivation 50x 3
  measure ContainerStarts 50x 3
  measure WarmMemory 1x 3
  measure CompileCache 5x 3
  name=agent
fi
go run ./test/bench --go-benchmarks "$printed" --name "$name" --out docs/bench
