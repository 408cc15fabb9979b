#!/usr/bin/env bash
# The local cluster comes up twice, is mended after crashes, and leaves nothing
# behind: mounts, links, network namespaces, cgroups, nft tables, processes.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
export CLUSTER=sanfran-long
state() {
  cut -d ' ' -f 5 /proc/self/mountinfo | grep -i "$CLUSTER" || true
  ip -o link | awk -F ': ' '{ print $2 }' | cut -d @ -f 1 | sort
  ip netns list | sort
  nft list tables | sort
  find /sys/fs/cgroup -type d -path "*$CLUSTER*" | sort
  find /sys/fs/bpf -path "*$CLUSTER*" 2>/dev/null | sort
  pgrep -af "$CLUSTER" | grep -v -e "$0" -e pgrep || true
}
make -s cluster-down
before=$(state)
make -s cluster
make -s cluster # a second time finds everything as it should be
KUBECONFIG=$(make -s kubeconfig); PATH=$(make -s bin-dir):$PATH
export KUBECONFIG PATH
kubectl wait --for=condition=Ready nodes --all --timeout=30s
for program in kube-apiserver etcd kubelet containerd; do
  pid=$(pgrep -f "/$program .*$CLUSTER|$program.*/$CLUSTER/" | head -n 1)
  [ -n "$pid" ] || { echo "no process $program of $CLUSTER found" >&2; exit 1; }
  kill -9 "$pid"
  env -u KUBECONFIG make -s cluster
  kubectl wait --for=condition=Ready nodes --all --timeout=60s
  echo "mended after the death of $program"
done
unset KUBECONFIG
make -s cluster-down
make -s cluster-down # nothing to do is no error
after=$(state)
diff <(echo "$before") <(echo "$after") || { echo "the cluster left the above behind" >&2; exit 1; }
