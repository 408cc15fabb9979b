#!/usr/bin/env bash
# Each of SanFran's pods is killed; functions answer again, and nothing stays
# behind in the node.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
E2E_LONG=true E2E_CLUSTER=sanfran-long test/e2e/run.sh -run 'TestLong'
