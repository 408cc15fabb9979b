// Package logs keeps what the functions of a node write.
//
// What a container writes comes to the agent by three pipes: frames of the
// worker, each naming stream and request, and the plain output of native code and
// child processes. Lines puts both together into lines and passes them on as
// records of the format that the kubelet's container logs have ([CRI]), so that
// tools can read them. A Store keeps the records of each pod in files of bounded
// size, and reads them back as kubectl logs asks.
//
// A pod's log consists of runs. A run begins with the first container and goes on
// over parking and waking; it ends when a container ends by itself, or does not
// load, which is when a kubelet would have restarted the container. The run before
// is what kubectl logs --previous shows.
//
// A container's output is hostile: whatever it is, it costs a bounded amount of
// memory and disk, and holds up nobody but that container.
//
// [CRI]: https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
package logs
