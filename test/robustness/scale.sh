#!/usr/bin/env bash
# A thousand pods of one revision.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
E2E_LONG=true E2E_CLUSTER=sanfran-long test/e2e/run.sh -v -run TestLongScale
