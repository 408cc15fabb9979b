#!/usr/bin/env bash
# Answers which cluster the commands work on. KUBECONFIG, where it is set,
# names it; otherwise it is the local cluster $CLUSTER.
# usage: target.sh kubeconfig|gateway-url|bin-dir|is-local
set -euo pipefail
cd "$(dirname "$0")/.."
CLUSTER=${CLUSTER:-sanfran}
NAMESPACE=${NAMESPACE:-sanfran-system}
local_cluster() { go -C deploy/local run . "$@"; }

kubeconfig() {
  if [ -n "${KUBECONFIG:-}" ]; then printf '%s\n' "$KUBECONFIG"; else local_cluster kubeconfig --name "$CLUSTER"; fi
}
# is_local: does the kubeconfig in use belong to the local cluster?
is_local() {
  [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$(local_cluster kubeconfig --name "$CLUSTER" 2>/dev/null)" ]
}
gateway_url() {
  export KUBECONFIG
  KUBECONFIG=$(kubeconfig)
  PATH=$(local_cluster bin-dir):$PATH
  local service node port address
  service=$(kubectl get service -n "$NAMESPACE" -l app.kubernetes.io/name=sanfran,app.kubernetes.io/component=gateway -o name | head -n 1)
  [ -n "$service" ] || { echo "no gateway in namespace $NAMESPACE; run: make install" >&2; exit 1; }
  address=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
  if [ -n "$address" ]; then
    port=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.spec.ports[0].port}')
    echo "http://$address:$port"
    return
  fi
  port=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.spec.ports[0].nodePort}')
  [ -n "$port" ] || { echo "the gateway's Service is a ClusterIP, not reachable from this machine; use: kubectl port-forward -n $NAMESPACE $service 8080:80" >&2; exit 1; }
  node=$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
  echo "http://${node%% *}:$port"
}
case ${1:-} in
  kubeconfig) kubeconfig ;;
  gateway-url) gateway_url ;;
  bin-dir) local_cluster bin-dir ;;
  is-local) is_local ;;
  *) echo "usage: $0 kubeconfig|gateway-url|bin-dir|is-local" >&2; exit 2 ;;
esac
