#!/usr/bin/env bash
# Says what is missing for a command, and how to get it, before anything is
# changed. usage: require.sh root|cluster
set -euo pipefail
what=$1
problems=()
[ "$(uname -s)" = Linux ] || problems+=("this is $(uname -s): a Linux machine is needed (Debian 12 is the one we test)")
[ "$(id -u)" = 0 ] || problems+=("not root: containers, network namespaces and mounts need it; run with sudo")
need=(go nft nsenter)
[ "$what" = cluster ] && need+=(conntrack)
for program in "${need[@]}"; do
  command -v "$program" >/dev/null || problems+=("$program is not there: make deps installs it (Go itself: https://go.dev/dl)")
done
[ "$what" != cluster ] || [ -x /usr/lib/cni/bridge ] || problems+=("no CNI plugins in /usr/lib/cni: make deps installs them")
[ ${#problems[@]} -eq 0 ] && exit 0
printf 'cannot run here, and nothing was changed:\n' >&2
printf '  - %s\n' "${problems[@]}" >&2
exit 1
