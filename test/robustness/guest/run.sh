#!/usr/bin/env bash
# Runs a command in a Debian 12 guest with cgroup v2 and without a network:
#   test/robustness/guest/run.sh COMMAND [ARGUMENT...]
# It runs as root in a copy of this checkout, finds the host's Go toolchain and
# caches, and sees nothing else of the host. Its output and exit status are
# ours. The guest ends with it, and what it wrote is gone.
#   GUEST_MEMORY   MiB of memory (8192)
#   GUEST_MINUTES  when the guest is stopped (60; without KVM 300)
{ # Read to its end before it runs, which takes long: the file may change meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../../.."
say() { printf 'guest: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }
memory=${GUEST_MEMORY:-8192}
cache=${SANFRAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sanfran}
for program in qemu-system-x86_64 qemu-img mmdebstrap mke2fs; do
  command -v "$program" >/dev/null || fail "$program is not there; test/robustness/guest/deps.sh installs it"
done
free=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
[ "$free" -ge $((memory + 512)) ] || fail "only $free MiB of memory are available; the guest takes $memory (GUEST_MEMORY=<MiB> changes that; 4096 is about the least)"

disk=$(test/robustness/guest/disk.sh)
cache=$(cd "$cache" && pwd)
free=$(df --output=avail -BM "$cache" | tail -n 1 | tr -dc 0-9)
[ "$free" -ge 8000 ] || fail "only $free MB are free at $cache; a run of the guest may take 8000 (SANFRAN_CACHE names another folder)"

run=$(mktemp -d "$cache/guest/run-XXXXXX")
qemu='' follow=''
finish() {
  [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
  [ -z "$follow" ] || kill -TERM "$follow" 2>/dev/null || true
  rm -rf "$run"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# KVM works where the processor has its instructions and QEMU can set it up; a
# /dev/kvm alone says little, for some clouds offer one for kernels of their own.
# The processor is all that the host has, but for one register that a KVM in a
# virtual machine may announce and then refuse.
processor=max,arch-capabilities=off
if grep -qwE 'vmx|svm' /proc/cpuinfo && printf 'quit\n' |
  timeout 20 qemu-system-x86_64 -machine q35 -accel kvm -cpu "$processor" -nodefaults -display none -S -monitor stdio >/dev/null 2>&1; then
  accelerator=(-accel kvm -smp 2)
  minutes=${GUEST_MINUTES:-60}
  say "KVM works here"
else
  # The guest's clock counts instructions, a billion to the second: slow as the
  # emulation is, nothing in the guest waits too short for it. That goes with one
  # processor. The room for translated code is larger than usual, as Kubernetes is.
  accelerator=(-accel tcg,thread=single,tb-size=1024 -icount shift=0,sleep=on -smp 1)
  minutes=${GUEST_MINUTES:-300}
  say "KVM does not work here, so instructions are emulated: a second in the guest takes 5 to 10"
fi

# The order for this run. Go's caches go by the names of folders, so all have
# in the guest the names they have here.
shares=("goroot:$(go env GOROOT)" "modules:$(go env GOMODCACHE)" "compiled:$(go env GOCACHE)" "cache:$cache")
{
  declare -p shares
  printf 'checkout=%q\n' "$PWD"
  printf 'export %s=%q\n' HOME "$HOME" SANFRAN_CACHE "$cache" \
    GOFLAGS "$(go env GOFLAGS)" GOPATH "$(go env GOPATH)" GOMODCACHE "$(go env GOMODCACHE)" GOCACHE "$(go env GOCACHE)" \
    GOPROXY off GOSUMDB off GOTOOLCHAIN local GOTELEMETRY off \
    PATH "$(go env GOROOT)/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
} >"$run/settings"
printf '%s\0' "$@" >"$run/arguments"
cp test/robustness/guest/inside.sh "$run/"
# What a commit of all there is would hold.
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] && [ ! -L "$file" ] || printf '%s\0' "$file"; done |
  tar --null -T - -cf "$run/checkout.tar"
qemu-img create -q -f qcow2 -F raw -b "$disk/root.img" "$run/disk.qcow2"
: >"$run/output"

arguments=(
  -name sanfran-guest -nodefaults -no-user-config -display none -no-reboot
  -machine q35 "${accelerator[@]}" -cpu "$processor" -m "$memory"
  -kernel "$disk/vmlinuz" -initrd "$disk/initrd.img"
  -append "root=/dev/vda rw console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 systemd.show_status=error"
  -drive "if=virtio,format=qcow2,cache=unsafe,file=$run/disk.qcow2"
  -serial "file:$run/console"
  -device virtio-serial -chardev "file,id=output,path=$run/output" -device "virtserialport,chardev=output,name=output"
  -device virtio-rng-pci
  -virtfs "local,id=order,path=$run,mount_tag=order,security_model=none"
)
for one in "${shares[@]}"; do
  arguments+=(-virtfs "local,id=${one%%:*},path=${one#*:},mount_tag=${one%%:*},security_model=none,readonly=on,multidevs=remap")
done
say "starting with $memory MiB, for $minutes minutes at most"
start=$SECONDS
# QEMU ends with this script, however that ends.
setpriv --pdeathsig KILL qemu-system-x86_64 "${arguments[@]}" </dev/null >"$run/errors" 2>&1 &
qemu=$!
timeout "$((minutes * 60))" tail -n +1 -f --pid="$qemu" "$run/output" &
follow=$!
late=0
wait "$follow" || late=$?
follow=''
if [ "$late" != 0 ]; then
  kill -KILL "$qemu" 2>/dev/null || true
  say "the command did not end within $minutes minutes (GUEST_MINUTES)"
fi
ended=0
wait "$qemu" || ended=$?
qemu=''
if [ ! -e "$run/status" ]; then
  grep -v '^$' "$run/errors" "$run/console" 2>/dev/null | tail -n 40 >&2 || true
  fail "the guest ended after $((SECONDS - start)) s without the command's result (QEMU's status $ended; above is what it and the kernel said)"
fi
status=$(cat "$run/status")
say "the command ended with status $status after $((SECONDS - start)) s"
exit "$status"
}
