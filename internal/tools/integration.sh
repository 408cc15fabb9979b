#!/usr/bin/env bash
# Runs the tests of tag integration: real crun and runc, a real Node.js root filesystem,
# kernel networking. They make network namespaces of their own. RACE=0 leaves the
# race detector out, for benchmarks. With SANFRAN_OCI_RUNTIME=runc agents make their
# containers by runc; the package container is tested with both in any case. The
# arguments are go test's: packages, -run and the like.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "integration.sh: name packages, such as ./nodeagent/...; make test-integration takes all that have such tests" >&2; exit 2; }
go -C deploy/local run . build runc
SANFRAN_RUNC=$(go -C deploy/local run . bin-dir)/runc
export SANFRAN_RUNC
[ "${SANFRAN_OCI_RUNTIME:-}" != runc ] || SANFRAN_OCI_RUNTIME=$SANFRAN_RUNC
export SANFRAN_OCI_RUNTIME=${SANFRAN_OCI_RUNTIME:-}
roots=$(go run ./deploy/images --rootfs --runtimes node24,node26)
SANFRAN_ROOTFS=$(awk '/node24/ { print $2 }' <<<"$roots")
SANFRAN_NODE26_ROOTFS=$(awk '/node26/ { print $2 }' <<<"$roots")
export SANFRAN_ROOTFS SANFRAN_NODE26_ROOTFS
SANFRAN_NPM=$(test/npm/install.sh)
export SANFRAN_NPM
# One package at a time: they share the machine's cgroups, nft and bpffs. Their
# parallel tests wait for containers more than they compute.
race=-race
[ "${RACE:-1}" != 0 ] || race=
go test -tags integration $race -p 1 -parallel 4 -timeout 20m "$@"
