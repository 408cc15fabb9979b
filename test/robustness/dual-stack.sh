#!/usr/bin/env bash
# The end-to-end tests on a dual-stack cluster of two kubelets.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
HELM_FLAGS="--set virtualNode.podCIDRv6=fd53:245::/64,agent.networkCIDRv6=fd53:246::/64" \
  NODES=2 CLUSTER_FLAGS=--dual-stack E2E_CLUSTER=sanfran-long test/e2e/run.sh
