#!/usr/bin/env bash
# Measures SanFran on the local cluster (made if it is not there) from inside
# its first node, and writes docs/bench/. Further arguments go to the program,
# such as --case cold or --long.
set -euo pipefail
cd "$(dirname "$0")/../.."
CLUSTER=${CLUSTER:-sanfran}
deploy/target.sh is-local || { echo "bench: KUBECONFIG names a cluster that is not the local one; the bench runs inside a node's network. Unset KUBECONFIG." >&2; exit 1; }
unset KUBECONFIG
make -s cluster
# A pool of 10, and room for the burst's 50 containers.
HELM_FLAGS="--set agent.pool.target=10 --set agent.resources.limits.memory=6Gi ${HELM_FLAGS:-}" make -s install
CGO_ENABLED=0 go build -o bin/bench ./test/bench # pods run it, too
KUBECONFIG=$(deploy/target.sh kubeconfig)
PATH=$(deploy/target.sh bin-dir):$PATH
export KUBECONFIG PATH
SANFRAN_NPM=$(test/npm/install.sh)
export SANFRAN_NPM
image=$(kubectl get daemonset -A -l app.kubernetes.io/component=agent -o jsonpath='{.items[0].spec.template.spec.containers[0].image}')
node=$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].metadata.name}')
go -C deploy/local run . exec --name "$CLUSTER" "$node" -- "$PWD/bin/bench" --image "$image" --out "$PWD/docs/bench" "$@"
