#!/usr/bin/env bash
# Attacks an installation of SanFran from inside functions, and says what held.
# The installation is the one in the cluster KUBECONFIG names; without it that of
# the local cluster, both made if they are not there. Further arguments go to the
# program: --only text, --rounds n.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${KUBECONFIG:-}" ]; then
  make -s cluster
  make -s install
fi
mkdir -p bin
go build -o bin/attacks ./test/attacks/cluster
KUBECONFIG=$(deploy/target.sh kubeconfig)
GATEWAY_URL=${GATEWAY_URL:-$(deploy/target.sh gateway-url)}
PATH=$(deploy/target.sh bin-dir):$PATH
export KUBECONFIG GATEWAY_URL PATH
bin/attacks "$@"
