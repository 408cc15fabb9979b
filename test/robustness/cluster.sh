#!/usr/bin/env bash
# The local cluster comes up twice, is mended after crashes of its programs and
# of a whole node, and leaves nothing behind: mounts, links, network namespaces,
# cgroups, nft tables, processes.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
export CLUSTER=sanfran-long
own() { # a command of the local cluster, and its arguments
  local command=$1
  shift
  go -C deploy/local run . "$command" --name "$CLUSTER" "$@"
}
state() {
  cut -d ' ' -f 5 /proc/self/mountinfo | grep -- "$CLUSTER" || true
  ip -o link | awk -F ': ' '{ print $2 }' | cut -d @ -f 1 | sort
  ip netns list | sort
  nft list tables | sort
  find /sys/fs/cgroup -type d -path "*$CLUSTER*" | sort
  find /sys/fs/bpf /var/lib/sanfran-local -path "*$CLUSTER*" 2>/dev/null | sort
  ps -eo args | grep -- "[s]anfran-long-node" || true
}
ready() {
  KUBECONFIG=$(own kubeconfig) "$(make -s bin-dir)/kubectl" wait --for=condition=Ready nodes --all --timeout=90s
}
make -s cluster-down
before=$(state)
make -s cluster
make -s cluster # a second time finds everything as it should be
ready
for program in etcd kube-apiserver containerd kubelet kube-proxy; do
  own exec --all node-1 -- sh -c "kill -9 \$(pidof $program)"
  make -s cluster
  ready
  echo "mended after the death of $program"
done
init=$(pgrep -of "node-init.*$CLUSTER-node-1")
kill -9 "$init"
make -s cluster
ready
echo "mended after the death of a whole node"
make -s cluster-down
make -s cluster-down # nothing to do is no error
after=$(state)
diff <(echo "$before") <(echo "$after") || { echo "the cluster left the above behind" >&2; exit 1; }
