#!/usr/bin/env bash
# Runs the long tests, in parts one after the other, on a local cluster of their
# own. PART=<name> runs one; without it all. Each prints what it measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=(cluster scale soak npm attacks crashes kills two-nodes dual-stack iptables tproxy cgroup2)
chosen=${PART:-}
if [ -n "$chosen" ] && [[ " ${parts[*]} " != *" $chosen "* ]]; then
  echo "no part $chosen; there are: ${parts[*]}" >&2
  exit 2
fi
for part in "${parts[@]}"; do
  [ -z "$chosen" ] || [ "$part" = "$chosen" ] || continue
  echo "test-long: $part"
  start=$SECONDS
  "test/robustness/$part.sh"
  echo "test-long: $part passed in $((SECONDS - start)) s"
done
