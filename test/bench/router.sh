#!/usr/bin/env bash
# Measures the router by itself, in one process and on loopback, and writes
# docs/bench/router.md and router.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
printed=$PWD/bin/router-benchmarks.txt
go test -run '^$' -bench '^Benchmark(Admission|Gateway|Forward)$' -benchtime 0.5s -count 3 ./router | tee "$printed"
go run ./test/bench --go-benchmarks "$printed" --name router --out docs/bench
