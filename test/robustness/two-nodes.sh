#!/usr/bin/env bash
# The end-to-end tests on two kubelets; TestHandover needs them.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
NODES=2 E2E_CLUSTER=sanfran-long test/e2e/run.sh
