#!/usr/bin/env bash
# Thousands of activations; nothing grows: of one agent, which holds exactly what it
# held before, and on a cluster.
set -euo pipefail
cd "$(dirname "$0")/../.."
RACE=0 SANFRAN_SOAK_CYCLES=${SANFRAN_SOAK_CYCLES:-2000} internal/tools/integration.sh -v -timeout 30m -run 'TestSoak$' ./nodeagent
unset KUBECONFIG
E2E_LONG=true E2E_CLUSTER=sanfran-long test/e2e/run.sh -v -run TestLongSoak
