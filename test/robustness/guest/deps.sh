#!/usr/bin/env bash
# Installs what the guest needs on the host and says so. This is not part of
# make deps, because nothing but the guest needs it.
set -euo pipefail
say() { printf 'guest: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); the guest needs Linux, for it shares the host's Go toolchain"
[ "$(uname -m)" = x86_64 ] || fail "this is $(uname -m); the guest is made for x86_64 alone"
[ "$(id -u)" = 0 ] || fail "not root: making the guest's disk with the right owners needs it; run with sudo"
# package → why
packages=(
  "qemu-system-x86: the virtual machine"
  "qemu-utils: a throw-away layer over its disk"
  "mmdebstrap: makes a Debian system"
  "debian-archive-keyring: Debian's signatures"
  "e2fsprogs: puts that system onto a disk"
)
missing=()
for line in "${packages[@]}"; do
  name=${line%%:*}
  dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' && continue
  missing+=("$name")
  say "Debian package $name (${line#*: })"
done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v apt-get >/dev/null || fail "no apt-get here; install these by your own package manager and run again: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
say "installing ${#missing[@]} Debian packages"
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
  { tail -n 20 "$log" >&2; fail "apt-get failed (above)"; }
