#!/usr/bin/env bash
# The end-to-end tests where nftables lead connections to function pods, and no BPF.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
HELM_FLAGS="--set agent.podAddresses=tproxy" E2E_CLUSTER=sanfran-long test/e2e/run.sh
