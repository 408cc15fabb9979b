#!/usr/bin/env bash
# Builds SanFran's image, brings it to the cluster and installs the chart with
# Helm; --uninstall takes the release away. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
CLUSTER=${CLUSTER:-sanfran}
NAMESPACE=${NAMESPACE:-sanfran-system}
say() { printf 'install: %s\n' "$*"; }

is_local=false
deploy/target.sh is-local && is_local=true
if ! $is_local && [ "${1:-}" != --uninstall ] && [ -z "${IMAGE_REPOSITORY:-}" ]; then
  echo "install: the cluster of KUBECONFIG=$KUBECONFIG is not the local one; say where the image goes: make install IMAGE_REPOSITORY=registry/name" >&2
  exit 1
fi
deploy/target.sh reach helm
KUBECONFIG=$(deploy/target.sh kubeconfig)
export KUBECONFIG
PATH=$(deploy/target.sh bin-dir):$PATH

if [ "${1:-}" = --uninstall ]; then
  helm uninstall sanfran -n "$NAMESPACE" --wait --ignore-not-found
  # A node may not delete itself. With it Kubernetes removes the pods that were
  # bound to it.
  kubectl delete node -l sanfran.dev/virtual-node --wait=false
  exit
fi

mkdir -p bin
if $is_local; then
  # The tag is of the content, so that a changed image is a changed pod.
  repository=sanfran.local/sanfran
  tag=$(go run ./deploy/images --version "${VERSION:-dev}" --ref "$repository:dev" --tag-by-content --output bin/sanfran.tar | awk '$1 == "image" { print $2 }')
  tag=${tag##*:}
  say "image $repository:$tag"
  go -C deploy/local run . load-image --name "$CLUSTER" "$PWD/bin/sanfran.tar"
  image=(--set-string "image.repository=$repository" --set-string "image.tag=$tag" --set image.pullPolicy=Never --set gateway.service.type=NodePort)
else
  pushed=$(go run ./deploy/images --version "${VERSION:-dev}" --push "$IMAGE_REPOSITORY:${VERSION:-dev}" | awk '$1 == "pushed" { print $2 }')
  say "image $pushed"
  image=(--set-string "image.repository=$IMAGE_REPOSITORY" --set-string "image.digest=${pushed##*@}")
fi
# shellcheck disable=SC2086 # HELM_FLAGS is several words
helm upgrade --install sanfran deploy/helm/sanfran -n "$NAMESPACE" --create-namespace "${image[@]}" ${HELM_FLAGS:-} --wait --timeout 3m >/dev/null || {
  kubectl get pods -n "$NAMESPACE" -o wide
  kubectl get events -n "$NAMESPACE" --sort-by=.lastTimestamp | tail -n 20
  echo "install: helm did not finish; above is what Kubernetes says" >&2
  exit 1
}
kubectl wait --for=create node/sanfran --timeout=60s >/dev/null
kubectl wait --for=condition=Ready node/sanfran --timeout=60s >/dev/null
# The API server takes a new admission policy into use a few seconds after it
# was made; a pod that is made before would have to tolerate the node by itself.
if kubectl get mutatingadmissionpolicy sanfran-landing >/dev/null 2>&1; then
  deadline=$((SECONDS + 60))
  until kubectl run landing-check -n "$NAMESPACE" --image=sanfran/node:24 --dry-run=server -o jsonpath='{.spec.tolerations[*].key}' \
    --overrides='{"spec":{"nodeSelector":{"kubernetes.io/hostname":"sanfran"}}}' | grep -q sanfran.dev/virtual-node; do
    [ $SECONDS -lt $deadline ] || { echo "install: the admission policy sanfran-landing has no effect after 60 s; see kubectl describe mutatingadmissionpolicy sanfran-landing" >&2; exit 1; }
    sleep 0.5
  done
fi
say "SanFran runs in namespace $NAMESPACE; the virtual node sanfran is Ready"
