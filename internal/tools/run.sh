#!/usr/bin/env bash
# Runs one component from the checkout (bin/sanfrand) against the cluster that
# KUBECONFIG names, or the local one, where SanFran is installed. It takes the
# flags of the component it stands beside or in for, and puts the cluster back
# when it ends. Where it was killed, the next run, or restore, puts it back.
# usage: run.sh gateway|agent|controlplane|restore
#   LISTEN=host:port   gateway: where it serves functions (127.0.0.1:8080)
#   NODE=name          agent: on which node (the first)
#   ADDRESS=ip         controlplane: this machine as nodes and pods reach it
#   FLAGS="…"          further flags of sanfrand, such as --log-level=debug
set -euo pipefail
cd "$(dirname "$0")/../.."
CLUSTER=${CLUSTER:-sanfran}
NAMESPACE=${NAMESPACE:-sanfran-system}
# mark is on what this script changes in a cluster, and tells what it changed.
mark=run.sanfran.dev

say() { printf 'run: %s\n' "$*" >&2; }
fail() { printf 'run: %s\n' "$*" >&2; exit 1; }

component=${1:-}
case $component in
  gateway | agent | controlplane | restore) ;;
  *) echo "usage: $0 gateway|agent|controlplane|restore" >&2; exit 2 ;;
esac

is_local=false
deploy/target.sh is-local && is_local=true

# need_local ends the command on a cluster that is not on this machine.
need_local() {
  ! $is_local || return 0
  fail "$1"
}

# What can be told without the cluster comes first.
[ "$component" = restore ] || [ -x bin/sanfrand ] || fail "bin/sanfrand is not there; run: make build"
if [ "$component" = agent ]; then
  need_local "an agent runs in the network of its node, and the cluster of KUBECONFIG is not on this machine. Use a local one (unset KUBECONFIG; make cluster install run-agent), or bring your build to the cluster with: make install IMAGE_REPOSITORY=registry/name"
  [ "$(id -u)" = 0 ] || fail "not root: an agent makes containers, network namespaces and mounts; run with sudo"
fi
if [ "$component" = controlplane ] && [ -z "${ADDRESS:-}" ]; then
  need_local "the API server, agents and gateways must reach this machine, and the cluster of KUBECONFIG is not on it; say by which of this machine's addresses they do: make run-controlplane ADDRESS=ip"
fi

deploy/target.sh reach
KUBECONFIG=$(deploy/target.sh kubeconfig)
export KUBECONFIG
PATH=$(deploy/target.sh bin-dir):$PATH
k() { kubectl -n "$NAMESPACE" "$@"; }

# object <kind> <component>: the name of a component's object.
object() {
  k get "$1" -l "app.kubernetes.io/name=sanfran,app.kubernetes.io/component=$2" -o jsonpath='{.items[*].metadata.name}'
}
control=$(object statefulset control-plane)
[ -n "$control" ] || fail "SanFran is not installed in namespace $NAMESPACE; run: make install (or set NAMESPACE)"
[ "${control#* }" = "$control" ] || fail "namespace $NAMESPACE holds several installations ($control); this command takes one"
release=${control%-control-plane}
daemonset=$release-agent
stand_in=$release-agent-checkout
slice=$control-checkout

work=$(mktemp -d "${TMPDIR:-/tmp}/sanfran-$component.XXXXXX")
running=()    # processes to end, the last first
undo=()       # functions that put the cluster back, the last first
finish() {
  local status=$?
  trap '' INT TERM HUP
  trap - EXIT
  for ((i = ${#running[@]} - 1; i >= 0; i--)); do
    kill -TERM "${running[i]}" 2>/dev/null || continue
    wait "${running[i]}" 2>/dev/null || true
  done
  for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
    "${undo[i]}" || { status=1; say "the cluster could not be put back (above); once it answers run: internal/tools/run.sh restore"; }
  done
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 0' INT # the way it is meant to end
trap 'exit 143' TERM HUP

# tied runs a command so that it ends with this script, however that ends.
tied=(setpriv --pdeathsig TERM)

# start runs a command as a child that Ctrl-C reaches through this script alone.
start() {
  "${tied[@]}" setsid "$@" &
  running+=($!)
}

# flags <kind/name> <VARIABLE=value…>: the component's flags in the cluster,
# its variables filled in, one a line.
flags() {
  local from=$1 line pair
  shift
  k get "$from" -o jsonpath='{range .spec.template.spec.containers[0].args[*]}{@}{"\n"}{end}' | while IFS= read -r line; do
    for pair in "$@"; do line=${line//"\$(${pair%%=*})"/${pair#*=}}; done
    printf '%s\n' "$line"
  done
}

# fetch_token <ServiceAccount> <pod>: writes the token of an hour that says who
# the process is, in one step for the process that may read it meanwhile.
fetch_token() {
  local uid
  uid=$(k get pod "$2" -o jsonpath='{.metadata.uid}') &&
    k create token "$1" --audience sanfran --duration 1h --bound-object-kind Pod --bound-object-name "$2" --bound-object-uid "$uid" >"$work/token.new" &&
    mv "$work/token.new" "$work/token"
}

# attend waits for the end of the component. $1, if given, is called when a
# token is half through, and soon again where it failed.
attend() {
  local main=${running[-1]} pause=1800 timer status
  while :; do
    sleep "$pause" &
    timer=$!
    running+=("$timer")
    status=0
    wait -n "$main" "$timer" || status=$?
    unset 'running[-1]'
    if ! kill -0 "$main" 2>/dev/null; then
      kill "$timer" 2>/dev/null || true
      fail "the $component has ended by itself, with status $status (its log is above)"
    fi
    pause=1800
    [ $# = 0 ] || "$1" || { say "no new token; trying again in 10 s"; pause=10; }
  done
}

# wait_ready <url>: until the component says that it serves.
wait_ready() {
  local main=${running[-1]}
  until curl -fsS -o /dev/null --max-time 2 "$1" 2>/dev/null; do
    kill -0 "$main" 2>/dev/null || fail "the $component did not start (its log is above)"
    sleep 0.5
  done
}

# need_port <address> <port> <what to do>
need_port() {
  local taken
  taken=$(ss -Hltn "sport = :$2" | awk '{print $4}' | grep -E "^(\*|0\.0\.0\.0|\[::\]|${1//./\\.}):$2\$" | head -n 1) || true
  [ -z "$taken" ] || fail "port $2 of $1 is taken (something listens on $taken); $3"
}

### gateway: beside the cluster's

gateway_token() {
  local pod
  pod=$(k get pods -l app.kubernetes.io/name=sanfran,app.kubernetes.io/component=gateway --field-selector=status.phase=Running \
    -o jsonpath='{.items[0].metadata.name}' 2>/dev/null) || { say "no gateway runs in the cluster, whose pod the token could be bound to"; return 1; }
  fetch_token "$release-gateway" "$pod"
}

# forward keeps a way to the control plane open, on one port of this machine.
forward() {
  trap '' INT # the gateway still needs it while it stops
  local port=0 log=$work/forward.log
  while :; do
    "${tied[@]}" setsid kubectl port-forward -n "$NAMESPACE" "service/$control" --address 127.0.0.1 "$port:7443" >"$log" 2>&1 &
    if [ "$port" = 0 ]; then
      for ((i = 0; i < 100 && port == 0; i++)); do
        sleep 0.1
        port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$log")
        port=${port:-0}
      done
      [ "$port" = 0 ] || echo "$port" >"$work/port"
    fi
    wait $! || true
    sleep 1
  done
}

run_gateway() {
  local listen=${LISTEN:-127.0.0.1:8080} control_plane own
  [[ $listen == *:* ]] || fail "LISTEN=$listen: give host:port"
  need_port "${listen%:*}" "${listen##*:}" "choose another: make run-gateway LISTEN=127.0.0.1:0 takes a free one"
  gateway_token || fail "see above; is the gateway's Deployment scaled to zero?"
  own=$(k get endpointslice "$slice" --ignore-not-found -o jsonpath='{.endpoints[0].addresses[0]}:{.ports[0].port}')
  if [ -n "$own" ]; then
    control_plane=$own
  else
    forward &
    running+=($!)
    for ((i = 0; i < 150; i++)); do [ ! -s "$work/port" ] || break; sleep 0.1; done
    [ -s "$work/port" ] || fail "kubectl port-forward does not reach the control plane: $(tail -n 2 "$work/forward.log")"
    control_plane=127.0.0.1:$(<"$work/port")
  fi
  # Its health server takes any free port, at an address of its own.
  mapfile -t args < <(flags "deployment/$release-gateway")
  # shellcheck disable=SC2086 # FLAGS is several words
  start bin/sanfrand "${args[@]}" --log-format=text --control-plane="$control_plane" --control-plane-name="$control.$NAMESPACE.svc" \
    --token-file="$work/token" --ca-file="$work/ca.crt" --data-dir="$work/data" \
    --listen-address="$listen" --health-address=127.0.0.2:0 ${FLAGS:-}
  local main=${running[-1]} address=""
  until [ -n "$address" ]; do
    kill -0 "$main" 2>/dev/null || fail "the gateway did not start (its log is above)"
    sleep 0.2
    address=$(listening "$main")
  done
  say "the gateway listens at http://$address (functions: /fn/<name>); Ctrl-C ends it"
  attend gateway_token
}

# listening <process>: where a gateway listens, also if it chose the port.
listening() {
  ss -Hltnp | awk -v pid="pid=$1," 'index($0, pid) && $4 !~ /^127\.0\.0\.2:/ { sub(/^\*/, "127.0.0.1", $4); print $4; exit }'
}

### agent: in place of the cluster's on one node

# quoted makes a JSON string of its input.
quoted() { sed 's/[\\"]/\\&/g; 1s/^/"/; $s/$/"/'; }

run_agent() {
  local node=${NODE:-} ip before affinity strategy
  node=${node:-$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].metadata.name}')}
  ip=$(kubectl get node "$node" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}') || fail "NODE=$node: no such node (above)"
  ip=${ip%% *}
  say "building what an agent starts containers of"
  go -C deploy/local build -o "$work/local" .
  local rootfs name runtimes=() runc
  go run ./deploy/images --rootfs >"$work/rootfs"
  # A folder is called <runtime>-<digest>.
  while read -r _ rootfs; do
    name=${rootfs##*/}
    runtimes+=("--runtime=${name%-*}=$rootfs")
  done < <(grep '^rootfs ' "$work/rootfs")
  "$work/local" build runc
  runc=$("$work/local" bin-dir)/runc

  restore_agent
  undo+=(restore_agent)
  say "taking the cluster's agent off $node"
  # Other nodes keep their agents: with OnDelete a changed template starts none
  # anew, and what no longer fits a node is ended there alone.
  affinity=$(k get daemonset "$daemonset" -o jsonpath='{.spec.template.spec.affinity}')
  strategy=$(k get daemonset "$daemonset" -o jsonpath='{.spec.updateStrategy}')
  before="{\"updateStrategy\":$strategy,\"template\":{\"spec\":{\"affinity\":$affinity}}}"
  local terms=/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms
  k patch daemonset "$daemonset" --type=json -p "[
    {\"op\": \"add\", \"path\": \"/metadata/annotations/$mark~1before\", \"value\": $(quoted <<<"$before")},
    {\"op\": \"add\", \"path\": \"/metadata/annotations/$mark~1node\", \"value\": \"$node\"},
    {\"op\": \"replace\", \"path\": \"/spec/updateStrategy\", \"value\": {\"type\": \"OnDelete\"}},
    {\"op\": \"add\", \"path\": \"$terms/0/matchExpressions/-\", \"value\": {\"key\": \"kubernetes.io/hostname\", \"operator\": \"NotIn\", \"values\": [\"$node\"]}}]" >/dev/null
  k wait --for=delete pod -l app.kubernetes.io/name=sanfran,app.kubernetes.io/component=agent --field-selector="spec.nodeName=$node" --timeout=90s >/dev/null

  # The agent's token says which node it is of by the pod it is bound to.
  k create -f - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $stand_in
  labels: {app.kubernetes.io/part-of: sanfran, $mark/for: agent}
spec:
  nodeName: $node
  serviceAccountName: $daemonset
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
    - {name: stand-in, image: "sanfran.local/toolbox:1", imagePullPolicy: Never, command: [sleep, "2147483647"]}
POD
  agent_token
  local cpu memory address arg health=""
  cpu=$(k get daemonset "$daemonset" -o jsonpath='{.spec.template.spec.containers[0].resources.limits.cpu}')
  case $cpu in *m) cpu=${cpu%m} ;; *) cpu=$(awk -v cpu="$cpu" 'BEGIN { print cpu * 1000 }') ;; esac
  memory=$(k get daemonset "$daemonset" -o jsonpath='{.spec.template.spec.containers[0].resources.limits.memory}' | numfmt --from=auto)
  address=$(k get service "$control" -o jsonpath='{.spec.clusterIP}'):7443
  mapfile -t args < <(flags "daemonset/$daemonset" "NODE_NAME=$node" "NODE_IP=$ip" "MILLI_CPU=$cpu" "MEMORY_BYTES=$memory")
  for arg in "${args[@]}"; do case $arg in --health-address=*) health=${arg#*=} ;; esac; done
  ! curl -s -o /dev/null --max-time 2 "http://$health/healthz" || fail "an agent still answers at $health; look for it with: pgrep -af 'sanfrand agent'"
  # Mounts are the agent's own and go with it. Changing the network namespace
  # loses what tied the process to this script, so that is done again.
  # shellcheck disable=SC2086,SC2016 # FLAGS is several words; $@ is the inner shell's
  start "$work/local" exec --name "$CLUSTER" "$node" -- "${tied[@]}" unshare --mount --propagation slave \
    sh -c 'mount -t bpf bpf /sys/fs/bpf && exec "$@"' sh \
    "$PWD/bin/sanfrand" "${args[@]}" --log-format=text --control-plane="$address" --control-plane-name="$control.$NAMESPACE.svc" \
    --token-file="$work/token" --ca-file="$work/ca.crt" --work-dir="/run/sanfran-checkout/$node" --bpf-dir=/sys/fs/bpf/sanfran \
    --oci-runtime="$runc" "${runtimes[@]}" --cgroup="/sanfran-checkout-$node" ${FLAGS:-}
  wait_ready "http://$health/readyz"
  say "the agent of $node runs from here and is ready; Ctrl-C brings the cluster's back"
  attend agent_token
}

agent_token() { fetch_token "$daemonset" "$stand_in"; }

restore_agent() {
  local before node patch
  k delete pod "$stand_in" --ignore-not-found --now >/dev/null
  before=$(k get daemonset "$daemonset" -o jsonpath="{.metadata.annotations.${mark//./\\.}/before}")
  [ -n "$before" ] || return 0
  node=$(k get daemonset "$daemonset" -o jsonpath="{.metadata.annotations.${mark//./\\.}/node}")
  say "bringing the cluster's agent back to $node"
  clear_node "$node"
  patch="{\"metadata\":{\"annotations\":{\"$mark/before\":null,\"$mark/node\":null}},\"spec\":$before}"
  k patch daemonset "$daemonset" --type=merge -p "$patch" >/dev/null
  k rollout status daemonset "$daemonset" --timeout=120s >/dev/null
}

# clear_node <node>: what an agent left on this machine that was killed: its
# containers, in control groups named by the node, and its folder.
clear_node() {
  local pid left=()
  mapfile -t left < <(find /sys/fs/cgroup -path "*/sanfran-checkout-$1/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
  if [ ${#left[@]} -gt 0 ]; then
    kill -KILL "${left[@]}" 2>/dev/null || true
    for pid in "${left[@]}"; do while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done; done
  fi
  find /sys/fs/cgroup -depth -type d -path "*/sanfran-checkout-$1*" -exec rmdir {} + 2>/dev/null || true
  rm -rf --one-file-system "/run/sanfran-checkout/${1:?}"
  rmdir /run/sanfran-checkout 2>/dev/null || true
}

### controlplane: in place of the cluster's

run_controlplane() {
  local address=${ADDRESS:-} ip
  if [ -z "$address" ]; then
    ip=$(kubectl get nodes -l '!sanfran.dev/virtual-node' -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
    address=$(ip -4 route get "${ip%% *}" | sed -n 's/.* src \([0-9.]*\).*/\1/p')
  fi
  [[ $(ip -o address) == *" $address/"* ]] || fail "ADDRESS=$address is not an address of this machine; see: ip address"
  local port
  for port in 7443 10250 8081; do need_port "$address" "$port" "end that first (ss -ltnp \"sport = :$port\" tells what it is)"; done
  restore_controlplane
  undo+=(restore_controlplane)
  say "ending the cluster's control plane"
  k scale statefulset "$control" --replicas=0 >/dev/null
  k wait --for=delete "pod/$control-0" --timeout=90s >/dev/null
  # One more slice of the Service's: that of its own pods has none by now.
  k create -f - >/dev/null <<SLICE
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: $slice
  labels: {kubernetes.io/service-name: $control, endpointslice.kubernetes.io/managed-by: $mark}
addressType: IPv4
ports: [{name: grpc, port: 7443, protocol: TCP}]
endpoints: [{addresses: ["$address"], conditions: {ready: true}}]
SLICE
  mapfile -t args < <(flags "statefulset/$control" "POD_NAMESPACE=$NAMESPACE" "POD_IP=$address")
  # shellcheck disable=SC2086 # FLAGS is several words
  start bin/sanfrand "${args[@]}" --log-format=text --kubeconfig="$KUBECONFIG" --data-dir="$work/data" \
    --grpc-address="$address:7443" --kubelet-address="$address:10250" --health-address="$address:8081" ${FLAGS:-}
  wait_ready "http://$address:8081/readyz"
  say "the control plane runs from here, at $address, and is ready; Ctrl-C brings the cluster's back"
  attend
}

restore_controlplane() {
  local replicas
  k delete endpointslice "$slice" --ignore-not-found >/dev/null
  replicas=$(k get statefulset "$control" -o jsonpath='{.spec.replicas}')
  [ "$replicas" = 0 ] || return 0
  say "bringing the cluster's control plane back"
  k scale statefulset "$control" --replicas=1 >/dev/null
  k rollout status statefulset "$control" --timeout=120s >/dev/null
}

if [ "$component" != restore ] && [ "$component" != controlplane ]; then
  k get configmap "$release-ca" -o jsonpath='{.data.ca\.crt}' >"$work/ca.crt"
fi
case $component in
  gateway) run_gateway ;;
  agent) run_agent ;;
  controlplane) run_controlplane ;;
  restore)
    restore_agent
    restore_controlplane
    say "the cluster runs its own components"
    ;;
esac
