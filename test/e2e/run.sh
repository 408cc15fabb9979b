#!/usr/bin/env bash
# Runs the end-to-end tests: on the cluster KUBECONFIG names, or on a local one
# made for them (named sanfran-test), which is removed afterwards unless KEEP=1.
# Further arguments go to go test, such as -run TestName.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${KUBECONFIG:-}" ]; then
  export CLUSTER=${E2E_CLUSTER:-sanfran-test}
  finish() {
    status=$?
    if [ "$status" != 0 ]; then test/e2e/dump.sh || true; fi
    if [ "${KEEP:-}" = 1 ]; then
      echo "e2e: the cluster $CLUSTER stays; remove it with: make cluster-down CLUSTER=$CLUSTER"
    else
      env -u KUBECONFIG make -s cluster-down
    fi
    exit "$status"
  }
  trap finish EXIT
  make -s cluster
fi
make -s install
export E2E_LOCAL=false
deploy/target.sh is-local && E2E_LOCAL=true
KUBECONFIG=$(deploy/target.sh kubeconfig)
GATEWAY_URL=$(deploy/target.sh gateway-url)
PATH=$(deploy/target.sh bin-dir):$PATH
export KUBECONFIG GATEWAY_URL PATH
go test -tags e2e -count=1 -timeout 20m ./test/e2e/... "$@"
