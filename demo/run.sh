#!/usr/bin/env bash
# SanFran from nothing to an answer: a real Kubernetes on this machine (unless
# KUBECONFIG names one), SanFran in it by Helm, functions as pods, curl.
set -euo pipefail
cd "$(dirname "$0")/.."
CLUSTER=${CLUSTER:-sanfran}
NAMESPACE=${NAMESPACE:-sanfran-system}
bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
# show runs a command under its own words, quoted so that they can be copied.
show() {
  local words=() word
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./:=@%+-]*) words+=("'$word'") ;; *) words+=("$word") ;; esac
  done
  bold "\$ ${words[*]}"
  "$@"
}

own_cluster=false
if [ -z "${KUBECONFIG:-}" ]; then
  own_cluster=true
  bold "A Kubernetes on this machine (built from source the first time, about 10 minutes; later it is there at once)"
  make -s cluster
fi
bold "SanFran, by Helm"
make -s install

KUBECONFIG=$(make -s kubeconfig)
export KUBECONFIG
PATH=$(make -s bin-dir):$PATH
gateway=$(make -s gateway-url)
image=sanfran/node:24

# A demo that runs again begins anew.
kubectl delete pod hello --ignore-not-found >/dev/null
kubectl delete service hello --ignore-not-found >/dev/null
kubectl delete configmap hello --ignore-not-found >/dev/null

bold "demo/hello/index.js"
cat demo/hello/index.js
show kubectl create configmap hello --from-file=demo/hello/index.js

show kubectl run hello --image="$image" --port=8080 --override-type=strategic --overrides='{"spec":{
  "nodeSelector": {"kubernetes.io/hostname": "sanfran"},
  "volumes": [{"name": "code", "configMap": {"name": "hello"}}],
  "containers": [{"name": "hello", "volumeMounts": [{"name": "code", "mountPath": "/function"}]}]}}'
show kubectl wait --for=condition=Ready pod/hello --timeout=60s
show kubectl apply -k demo/greet
show kubectl apply -k demo/headers
show kubectl apply -k demo/server
kubectl wait --for=condition=Available deployment/greet deployment/headers deployment/server --timeout=60s >/dev/null

timed='\n  (HTTP %{http_code}, %{time_total} s)\n'
# Two pods of one revision: the first proves that the code loads, the second
# begins parked, so that its first request is a cold one.
kubectl delete pod hello-cold --ignore-not-found >/dev/null
kubectl run hello-cold --image="$image" --port=8080 --override-type=strategic --overrides='{"spec":{
  "nodeSelector": {"kubernetes.io/hostname": "sanfran"},
  "volumes": [{"name": "code", "configMap": {"name": "hello"}}],
  "containers": [{"name": "hello-cold", "volumeMounts": [{"name": "code", "mountPath": "/function"}]}]}}' >/dev/null
kubectl wait --for=condition=Ready pod/hello-cold --timeout=60s >/dev/null
show curl -sS "$gateway/fn/hello?name=Vik"; echo
bold "The first request of a parked function pod is its cold start, the second is warm"
show curl -sS -w "$timed" "$gateway/fn/hello-cold?name=Vik"
show curl -sS -w "$timed" "$gateway/fn/hello-cold?name=Vik"
show curl -sS -w "$timed" "$gateway/fn/greet/morning?name=Vik&language=fr"
show curl -sS -w "$timed" "$gateway/fn/server?name=Vik" # an unmodified server

show kubectl expose pod hello --port=80 --target-port=8080
ip=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
kubectl wait --for=jsonpath='{.endpoints[0].conditions.ready}'=true endpointslice -l kubernetes.io/service-name=hello --timeout=30s >/dev/null
if $own_cluster; then
  bold "Its ClusterIP $ip, from the node"
  show go -C deploy/local run . exec --name "$CLUSTER" "$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].metadata.name}')" -- curl -sS --retry 5 --retry-connrefused "http://$ip/?name=node"; echo
  bold "and from an ordinary pod"
  kubectl delete pod client --ignore-not-found >/dev/null
  # Not -i: what a short program has written before kubectl is attached is lost.
  show kubectl run client --image=sanfran.local/toolbox:1 --restart=Never --command -- wget -q -O - "http://$ip/?name=pod"
  kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/client --timeout=60s >/dev/null
  show kubectl logs client; echo
  kubectl delete pod client --wait=false >/dev/null
fi

show kubectl get nodes
show kubectl get pods -A -o wide

bold "The cluster stays. To use it:"
cat <<USE
  export KUBECONFIG=$KUBECONFIG
  export PATH=$(make -s bin-dir):\$PATH
  curl "$gateway/fn/hello?name=you"
  kubectl describe pod hello
USE
if $own_cluster; then echo "To stop it: make cluster-down$([ "$CLUSTER" = sanfran ] || echo " CLUSTER=$CLUSTER")"; else echo "To remove SanFran: make uninstall"; fi
