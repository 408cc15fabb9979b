# Runs in the guest, from the folder /order of this run:
#   settings        shell variables: the checkout's folder, shared folders, the environment
#   checkout.tar    the project's files
#   arguments       the command, each word ended by a zero byte
# and leaves there the command's exit status in the file status. What it
# prints goes to the host's file output by a virtio port.
set -u
source /order/settings
port=/dev/virtio-ports/output
for _ in $(seq 50); do [ -e "$port" ] && break; sleep 0.1; done

# share TAG FOLDER: a folder of the host, under its own name, so that caches
# that go by names work; what is written to it stays in the guest.
share() {
  mkdir -p "/shares/$1/host" "/shares/$1/new" "/shares/$1/work" "$2" &&
    mount -t 9p -o "ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose" "$1" "/shares/$1/host" &&
    mount -t overlay -o "lowerdir=/shares/$1/host,upperdir=/shares/$1/new,workdir=/shares/$1/work,metacopy=on" overlay "$2"
}
prepare() {
  local one
  for one in "${shares[@]}"; do
    share "${one%%:*}" "${one#*:}" || { echo "guest: cannot mount ${one#*:} of the host" >&2; return 1; }
  done
  mkdir -p "$checkout" && tar -C "$checkout" -xf /order/checkout.tar && cd "$checkout"
}
work() {
  prepare || return 125
  local arguments
  mapfile -d '' -t arguments </order/arguments
  "${arguments[@]}" </dev/null
}
# Through cat, because a port can be opened once only.
work 2>&1 | cat >"$port"
status=${PIPESTATUS[0]}
echo "$status" >/order/status.new && mv /order/status.new /order/status
sync
