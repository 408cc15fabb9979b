#!/usr/bin/env bash
# Installs what building, running and testing SanFran need, and says so. What
# is there already is left as it is; a second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'deps: %s\n' "$*" >&2; }
fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); SanFran is built and run on Linux. Use a Linux machine or a virtual one (Debian 12 is the one we test)"
# What is not installed here comes first, so that nothing is changed in vain.
command -v go >/dev/null || fail "go is not on PATH; install Go 1.26 or newer (https://go.dev/dl)"
# go.mod says which Go it needs, and go itself whether it is that.
go list -m >/dev/null || fail "this Go ($(go env GOVERSION)) does not serve go.mod (above); install Go 1.26 or newer (https://go.dev/dl)"
command -v npm >/dev/null || fail "npm is not on PATH; install Node.js 20 or newer with npm (https://nodejs.org)"

# package: why. What Debian calls essential is not listed.
packages=(
  "gcc: runc's seccomp filter, and Go's race detector, are built with cgo; attacks by system calls"
  "libc6-dev: the same"
  "libseccomp-dev: the same, linked statically"
  "pkg-config: the same finds libseccomp by it"
  "git: versions, and which files to format"
  "crun: the OCI runtime that makes functions' containers, for tests"
  "nftables: nft for kube-proxy and for the local cluster's way out"
  "iptables: host ports of pods, by the CNI plugin portmap, and the kubelet's own rules"
  "containernetworking-plugins: the network of ordinary pods"
  "busybox-static: the image of ordinary pods, sanfran.local/toolbox"
  "mount: the kubelet's mounts"
  "kmod: overlay and bpf file systems where they are modules"
  "iproute2: ss and ip, for running a component from the checkout"
  "ca-certificates: fetching modules and packages"
  "curl: the requests of the demo and of scripts"
)
missing=()
for line in "${packages[@]}"; do
  name=${line%%:*}
  dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' && continue
  missing+=("$name")
  say "Debian package $name (${line#*: })"
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "no apt-get here, and nothing was changed; install these by your own package manager and run again: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "not root, and nothing was changed; run: sudo apt-get install -y ${missing[*]}"
  say "installing ${#missing[@]} Debian packages"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get failed (above)"; }
fi

worker=nodeagent/worker
stamp=$worker/node_modules/.package-lock.json
if [ ! -e "$stamp" ] || [ "$worker/package-lock.json" -nt "$stamp" ]; then
  say "npm packages of the worker (express, and Node.js 24 and 26 for its tests)"
  npm --prefix "$worker" ci --no-audit --no-fund --loglevel=error
  touch "$stamp"
fi
say "npm packages of functions that the integration tests run"
test/npm/install.sh >/dev/null
say "Go modules"
go mod download
say "everything is there"
