#!/usr/bin/env bash
# Answers which cluster the commands work on. KUBECONFIG, where it is set,
# names it; otherwise it is the local cluster $CLUSTER.
# usage: target.sh kubeconfig|gateway-url|bin-dir|is-local|reach [program…]
set -euo pipefail
cd "$(dirname "$0")/.."
CLUSTER=${CLUSTER:-sanfran}
NAMESPACE=${NAMESPACE:-sanfran-system}
local_cluster() { go -C deploy/local run . "$@"; }

fail() { printf '%s\n' "$*" >&2; exit 1; }

kubeconfig() {
  if [ -n "${KUBECONFIG:-}" ]; then
    printf '%s\n' "$KUBECONFIG"
  else
    local reason
    local_cluster kubeconfig --name "$CLUSTER" 2>/dev/null && return
    reason=$(local_cluster kubeconfig --name "$CLUSTER" 2>&1) || true
    case $reason in
      *"no such cluster"*) fail "there is no local cluster $CLUSTER; run: make cluster (or set KUBECONFIG to another's)" ;;
      *) fail "$reason" ;;
    esac
  fi
}
# reach ends the command, and says why, unless kubectl and the programs named
# are there and a Kubernetes answers. Without a file kubectl would try
# localhost, so that comes first.
reach() {
  local program reason files file found=false
  KUBECONFIG=$(kubeconfig) || exit 1
  export KUBECONFIG
  IFS=: read -ra files <<<"$KUBECONFIG"
  for file in "${files[@]}"; do
    [ ! -e "$file" ] || found=true
    [ ! -e "$file" ] || [ -r "$file" ] || fail "$file cannot be read by $(id -un); run as the user it belongs to (the local cluster's: root, with sudo)"
  done
  $found || fail "the file of KUBECONFIG, $KUBECONFIG, is not there; name one that is, or unset KUBECONFIG for the local cluster"
  PATH=$(local_cluster bin-dir):$PATH
  for program in kubectl "$@"; do
    command -v "$program" >/dev/null || fail "there is no $program on PATH; install it, or build the local cluster's: go -C deploy/local run . build ${program/kubectl/kubernetes}"
  done
  reason=$(kubectl get --raw /readyz --request-timeout=15s 2>&1 >/dev/null) && return
  reason=${reason##*$'\n'}
  if is_local; then
    fail "the local cluster $CLUSTER does not answer ($reason); bring it back with: make cluster"
  fi
  fail "no Kubernetes answers by KUBECONFIG=$KUBECONFIG ($reason); see that it runs, or unset KUBECONFIG for the local cluster"
}
# is_local: does the kubeconfig in use belong to the local cluster?
is_local() {
  [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$(local_cluster kubeconfig --name "$CLUSTER" 2>/dev/null)" ]
}
gateway_url() {
  reach
  local service node port address
  service=$(kubectl get service -n "$NAMESPACE" -l app.kubernetes.io/name=sanfran,app.kubernetes.io/component=gateway -o name | head -n 1)
  [ -n "$service" ] || fail "SanFran is not installed in namespace $NAMESPACE: there is no gateway; run: make install (or set NAMESPACE)"
  address=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
  if [ -n "$address" ]; then
    port=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.spec.ports[0].port}')
    echo "http://$address:$port"
    return
  fi
  port=$(kubectl get -n "$NAMESPACE" "$service" -o jsonpath='{.spec.ports[0].nodePort}')
  [ -n "$port" ] || fail "the gateway's Service is a ClusterIP, not reachable from this machine; use: kubectl port-forward -n $NAMESPACE $service 8080:80"
  node=$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
  echo "http://${node%% *}:$port"
}
case ${1:-} in
  kubeconfig) kubeconfig ;;
  gateway-url) gateway_url ;;
  bin-dir) local_cluster bin-dir ;;
  is-local) is_local ;;
  reach) shift; reach "$@" ;;
  *) echo "usage: $0 kubeconfig|gateway-url|bin-dir|is-local|reach" >&2; exit 2 ;;
esac
