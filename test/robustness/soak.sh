#!/usr/bin/env bash
# Hundreds of activations; nothing grows.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
E2E_LONG=true E2E_CLUSTER=sanfran-long test/e2e/run.sh -v -run TestLongSoak
