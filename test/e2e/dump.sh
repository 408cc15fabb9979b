#!/usr/bin/env bash
# Prints what Kubernetes and SanFran say, after a failure.
set -uo pipefail
cd "$(dirname "$0")/../.."
KUBECONFIG=$(deploy/target.sh kubeconfig)
PATH=$(deploy/target.sh bin-dir):$PATH
export KUBECONFIG PATH
NAMESPACE=${NAMESPACE:-sanfran-system}
kubectl get nodes -o wide
kubectl get pods -A -o wide
kubectl get events -A --sort-by=.lastTimestamp | tail -n 40
for component in control-plane agent gateway; do
  echo "--- $component"
  kubectl logs -n "$NAMESPACE" -l app.kubernetes.io/component="$component" --tail=60 --all-containers
  kubectl logs -n "$NAMESPACE" -l app.kubernetes.io/component="$component" --tail=20 --all-containers --previous 2>/dev/null
done
