#!/usr/bin/env bash
# The end-to-end tests on a dual-stack cluster.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
CLUSTER_FLAGS=--dual-stack E2E_CLUSTER=sanfran-long test/e2e/run.sh
