#!/usr/bin/env bash
# Installs what building, running and testing SanFran need, and says so. What
# is there already is left as it is; a second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'deps: %s\n' "$*" >&2; }
fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); SanFran's local Kubernetes needs Linux. Use a Linux machine (Debian 12 is the one we test), or a cluster of your own with KUBECONFIG."

# package → why
packages=(
  "gcc: runc's seccomp filter is built with cgo"
  "libc6-dev: the same"
  "libseccomp-dev: the same"
  "pkg-config: the same"
  "git: versions"
  "nftables: kube-proxy's rules (its nftables mode)"
  "iptables: the kubelet's and the bridge plugin's rules"
  "conntrack: kube-proxy"
  "iproute2: looking at network namespaces"
  "util-linux: nsenter"
  "kmod: kube-proxy asks for kernel modules"
  "containernetworking-plugins: the pods' network (bridge, host-local, portmap)"
  "ca-certificates: fetching modules"
  "curl: the demo's requests"
)
missing=()
for line in "${packages[@]}"; do
  name=${line%%:*}
  dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' && continue
  missing+=("$name")
  say "Debian package $name (${line#*: })"
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "no apt-get here; install these by your own package manager and run again: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "installing Debian packages needs root; run: sudo apt-get install -y ${missing[*]}"
  say "installing ${#missing[@]} Debian packages"
  log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get failed (above)"; }
  rm -f "$log"
fi

command -v go >/dev/null || fail "Go is not installed; install Go 1.26 or newer (https://go.dev/dl)"
# The go.mod of the checkout says which version it needs; go itself says whether it has it.
go list -m >/dev/null || fail "this Go ($(go env GOVERSION)) does not serve go.mod; install Go 1.26 or newer"
command -v npm >/dev/null || fail "npm is not installed; install Node.js 20 or newer with npm"

worker=nodeagent/worker
stamp=$worker/node_modules/.package-lock.json
if [ ! -e "$stamp" ] || [ "$worker/package-lock.json" -nt "$stamp" ]; then
  say "npm packages of the worker (express, and Node.js 24 for its tests)"
  npm --prefix "$worker" ci --no-audit --no-fund --loglevel=error
  touch "$stamp"
fi
say "Go modules"
go mod download
say "everything is there"
