#!/usr/bin/env bash
# Says what is missing for a command, and how to get it, before anything is
# changed. usage: require.sh machine|root|cluster
#   machine  what make deps cannot install: Linux, root, Go and npm
#   root     what tests of containers and networks need
#   cluster  what the local Kubernetes needs; it looks closer by itself later
set -euo pipefail
what=${1:-}
case $what in
  machine) need=(go npm) ;;
  root) need=(go npm nft nsenter) ;;
  cluster) need=(go nft nsenter iptables) ;;
  *) echo "usage: $0 machine|root|cluster" >&2; exit 2 ;;
esac
# Debian leaves these out of the PATH of users, and some ways to root keep that.
case :$PATH: in *:/usr/bin:*) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;; esac

problems=()
system=$(uname -s)
[ "$system" = Linux ] || problems+=("this is $system: a Linux machine is needed (Debian 12 is the one we test), or a cluster of your own by KUBECONFIG")
[ "$(id -u)" = 0 ] || problems+=("not root: containers, network namespaces and mounts need it; run: sudo env PATH=\"\$PATH\" make …")
for program in "${need[@]}"; do
  command -v "$program" >/dev/null && continue
  case $program in
    go) problems+=("go is not on PATH: install Go 1.26 or newer (https://go.dev/dl)") ;;
    npm) problems+=("npm is not on PATH: install Node.js 20 or newer with npm (https://nodejs.org)") ;;
    nft) problems+=("nft is not there: apt-get install nftables, or make deps, which installs all that is needed") ;;
    nsenter) problems+=("nsenter is not there: apt-get install util-linux, or make deps, which installs all that is needed") ;;
    iptables) problems+=("iptables is not there: apt-get install iptables, or make deps, which installs all that is needed") ;;
  esac
done
if [ "$what" = cluster ]; then
  [ -x /usr/lib/cni/ptp ] || problems+=("no CNI plugins in /usr/lib/cni: apt-get install containernetworking-plugins, or make deps, which installs all that is needed")
  [ -x /bin/busybox ] || problems+=("no /bin/busybox for the image of ordinary pods: apt-get install busybox-static, or make deps, which installs all that is needed")
fi
[ ${#problems[@]} -eq 0 ] && exit 0
printf 'cannot run here, and nothing was changed:\n' >&2
printf '  - %s\n' "${problems[@]}" >&2
exit 1
