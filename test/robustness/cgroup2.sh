#!/usr/bin/env bash
# The control groups' own test and the end-to-end tests on a machine with cgroup v2
# alone: a Debian 12 guest in QEMU. Many machines have cgroup v2, others still v1 or both; the local
# Kubernetes, runc and the agent's containers must work on each.
# Further arguments go to go test, such as -run TestName.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset KUBECONFIG
test/robustness/guest/deps.sh

# The guest has no network, so what its builds take from outside, or would
# compile for minutes, is put into the caches here.
say() { printf 'cgroup2: %s\n' "$*"; }
say "filling the caches that the guest shares"
image=$(mktemp -d)
trap 'rm -rf "$image"' EXIT
VERSION=dev go -C deploy/local run . build
go run ./deploy/images --version dev --output "$image/sanfran.tar" >/dev/null
go test -tags e2e -c -o "$image" ./test/e2e/...
go test -tags integration,cgroup2 -c -o "$image" ./nodeagent/container
rm -rf "$image"
trap - EXIT

say "the end-to-end tests in the guest"
# exec, so that a signal reaches what must end the guest.
# shellcheck disable=SC2016 # for the guest's shell
exec test/robustness/guest/run.sh bash -euc '
  kind=$(stat -fc %T /sys/fs/cgroup)
  [ "$kind" = cgroup2fs ] || { echo "the guest has $kind on /sys/fs/cgroup instead of cgroup v2" >&2; exit 1; }
  echo "cgroup2: Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
  go test -tags integration,cgroup2 -count=1 -v -run TestControlGroupsV2 ./nodeagent/container
  test/e2e/run.sh -v "$@"
' e2e "$@"
