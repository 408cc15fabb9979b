#!/usr/bin/env bash
# Every attack from inside functions: on a real agent, each flood five times
# beside a neighbour whose p99 must stay within twice its own without; then the
# same through a gateway, on a cluster of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
SANFRAN_ATTACK_ROUNDS=5 internal/tools/integration.sh -v -run TestAttacks ./nodeagent
unset KUBECONFIG
export CLUSTER=sanfran-long
trap 'make -s cluster-down' EXIT
test/attacks/run.sh
