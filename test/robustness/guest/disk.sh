#!/usr/bin/env bash
# Makes the guest's disk, kernel and initial file system, once, and prints the
# folder where they lie: root.img, vmlinuz, initrd.img. The folder's name
# changes with whatever they are made of; delete it to have newer packages.
set -euo pipefail
cd "$(dirname "$0")"
say() { printf 'guest: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
suite=bookworm
mirror=${GUEST_MIRROR:-}
cache=${SANFRAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sanfran}/guest

# What a user of the project has on his machine (make deps), and a system that
# boots.
mapfile -t packages < <(sed -n '/^packages=(/,/^)/ s/^ *"\([a-z0-9.+-]*\):.*/\1/p' ../../../internal/tools/deps.sh)
[ ${#packages[@]} -gt 5 ] || fail "the list of Debian packages was not found in internal/tools/deps.sh"
packages+=(linux-image-amd64 systemd-sysv udev kmod procps make)

key=$({ cat disk.sh boot.service boot.sh; printf '%s\n' "$suite" "$mirror" "${packages[@]}"; } | sha256sum | cut -c 1-12)
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/.lock"
flock -n 9 || { say "another disk is being made; waiting for it"; flock 9; }
if [ ! -d "$cache/$key" ]; then
  free=$(df --output=avail -BM "$cache" | tail -n 1 | tr -dc 0-9)
  [ "$free" -ge 6000 ] || fail "only $free MB are free at $cache; making the disk takes 6000 (SANFRAN_CACHE names another folder)"
  rm -rf "$cache"/.making-* # of a run that was cut off; we hold the lock
  made=$(mktemp -d "$cache/.making-XXXXXX")
  trap 'rm -rf "$made"' EXIT
  chmod 755 "$made"
  start=$SECONDS
  say "making a Debian system of ${#packages[@]} packages and what they need, about 2 minutes"
  # shellcheck disable=SC2016 # $1 is for the hooks' shell
  mmdebstrap --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"' \
    --essential-hook='echo MODULES=list >"$1/etc/initramfs-tools/conf.d/guest"' \
    --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" >"$1/usr/share/initramfs-tools/modules.d/guest"' \
    --customize-hook='mkdir -p "$1/usr/local/lib/guest"' \
    --customize-hook='copy-in boot.sh /usr/local/lib/guest' \
    --customize-hook='copy-in boot.service /etc/systemd/system' \
    --customize-hook='chroot "$1" systemctl enable boot.service' \
    --customize-hook='echo guest >"$1/etc/hostname"; printf "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 guest\n" >"$1/etc/hosts"; : >"$1/etc/resolv.conf"' \
    "$suite" "$made/system" ${mirror:+"$mirror"} >"$made/log" 2>&1 ||
    { tail -n 20 "$made/log" >&2; fail "mmdebstrap failed (above); GUEST_MIRROR=<url> takes another Debian mirror"; }
  say "the system is there after $((SECONDS - start)) s; putting it onto a disk"
  cp -L "$made/system/vmlinuz" "$made/system/initrd.img" "$made/" # Debian's links to the newest
  # Sparse: it takes what is in it.
  truncate -s 24G "$made/root.img"
  mke2fs -q -t ext4 -L guest -d "$made/system" "$made/root.img"
  rm -rf "$made/system"
  mv "$made" "$cache/$key"
  trap - EXIT
  say "made in $((SECONDS - start)) s: $cache/$key ($(du -sm "$cache/$key" | cut -f 1) MB)"
fi
echo "$cache/$key"
