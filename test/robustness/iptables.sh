#!/usr/bin/env bash
# The end-to-end tests where kube-proxy works by iptables.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
CLUSTER_FLAGS=--proxy-mode=iptables E2E_CLUSTER=sanfran-long test/e2e/run.sh
