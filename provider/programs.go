package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	corev1 "k8s.io/api/core/v1"
	utilexec "k8s.io/utils/exec"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// Programs reaches into the containers of function pods. Errors have a method
// FailureReason where the pod or its agent is the reason. When a call returns, a
// Read of what it was given may still be going on.
type Programs interface {
	// Exec runs a program and returns its exit code, once it has ended and its
	// output was written. It kills the program when ctx ends. What want does not
	// ask for is nil.
	Exec(ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (int, error)
	// Attach passes on what the container writes, until it has ended or ctx does.
	Attach(ctx context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error
	// Forward joins a connection, whose Close ends one way, to a port.
	Forward(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error
}

const (
	// streamTimeout and creationTimeout are a kubelet's: how long a stream may be
	// quiet, and how long a client may take to open what it has announced.
	streamTimeout   = 4 * time.Hour
	creationTimeout = 30 * time.Second
)

// programHandler is the kubelet API's /exec, /attach and /portForward. The streams
// themselves are virtual-kubelet's affair.
type programHandler struct {
	pods     func() []*corev1.Pod
	programs Programs
	log      *slog.Logger
}

// register adds the routes to mux.
func (h *programHandler) register(mux *http.ServeMux) {
	for _, method := range []string{http.MethodGet, http.MethodPost} { // a WebSocket begins with GET
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", h.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", h.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", h.forward)
	}
}

// find returns the pod of a request that runs, or answers why there is none.
func (h *programHandler) find(w http.ResponseWriter, r *http.Request) *corev1.Pod {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	pod := podNamed(h.pods(), namespace, name)
	if pod == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return nil
	}
	if container == "" { // of /portForward
		container = pod.Spec.Containers[0].Name
	}
	if !hasContainer(pod, container) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, name), http.StatusNotFound)
		return nil
	}
	if why := notRunning(pod, container); why != "" {
		http.Error(w, why, http.StatusBadRequest)
		return nil
	}
	return pod
}

// notRunning says why nothing can be done in a container.
func notRunning(pod *corev1.Pod, container string) string {
	for _, c := range pod.Status.ContainerStatuses {
		switch {
		case c.Name != container:
		case c.State.Waiting != nil:
			return fmt.Sprintf("container %q in pod %q does not run: %s", container, pod.Name, c.State.Waiting.Reason)
		case c.State.Terminated != nil:
			return fmt.Sprintf("container %q in pod %q is terminated", container, pod.Name)
		default:
			return ""
		}
	}
	return fmt.Sprintf("container %q in pod %q is not available", container, pod.Name)
}

// asked reports whether a request asks for one of its streams.
func asked(r *http.Request, stream string) bool { return r.FormValue(stream) == "1" }

func (h *programHandler) exec(w http.ResponseWriter, r *http.Request) {
	pod := h.find(w, r)
	if pod == nil {
		return
	}
	want := &streamsv1.Exec{
		PodUid: string(pod.UID), Command: r.URL.Query()[corev1.ExecCommandParam], Stdin: asked(r, corev1.ExecStdinParam),
		Stdout: asked(r, corev1.ExecStdoutParam), Stderr: asked(r, corev1.ExecStderrParam), Terminal: asked(r, corev1.ExecTTYParam),
	}
	if len(want.Command) == 0 {
		http.Error(w, "no command is given", http.StatusBadRequest)
		return
	}
	w, r, done := watchClient(w, r)
	defer done()
	api.HandleContainerExec(func(ctx context.Context, _, _, _ string, _ []string, streams api.AttachIO) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var stdin io.Reader
		if want.GetStdin() {
			stdin = streams.Stdin()
		}
		stdout, stderr := output(want.GetStdout(), streams.Stdout()), output(want.GetStderr(), streams.Stderr())
		var sizes chan *streamsv1.TerminalSize
		if want.GetTerminal() {
			sizes = make(chan *streamsv1.TerminalSize)
			go passSizes(ctx, streams.Resize(), sizes)
		}
		code, err := h.programs.Exec(ctx, want, stdin, stdout, stderr, sizes)
		switch {
		case err != nil:
			return h.failed(r, "exec", pod, err)
		case code != 0:
			// Not wrapped: virtual-kubelet looks at the error itself.
			return utilexec.CodeExitError{Code: code, Err: fmt.Errorf("exit code %d", code)}
		}
		return nil
	}, api.WithExecStreamIdleTimeout(streamTimeout), api.WithExecStreamCreationTimeout(creationTimeout))(w, r)
}

// output is a stream that is wanted, or nil.
func output(wanted bool, stream io.Writer) io.Writer {
	if !wanted {
		return nil
	}
	return stream
}

// passSizes passes sizes on until ctx ends or the client sends no more:
// virtual-kubelet repeats empty ones then, for ever.
func passSizes(ctx context.Context, from <-chan api.TermSize, to chan<- *streamsv1.TerminalSize) {
	for {
		select {
		case size := <-from:
			if size == (api.TermSize{}) {
				return
			}
			select {
			case to <- &streamsv1.TerminalSize{Columns: uint32(size.Width), Rows: uint32(size.Height)}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (h *programHandler) attach(w http.ResponseWriter, r *http.Request) {
	pod := h.find(w, r)
	if pod == nil {
		return
	}
	if asked(r, corev1.ExecStdinParam) && !pod.Spec.Containers[0].Stdin {
		http.Error(w, fmt.Sprintf("container %q in pod %q has no standard input; attach without --stdin", pod.Spec.Containers[0].Name, pod.Name), http.StatusBadRequest)
		return
	}
	terminal := asked(r, corev1.ExecTTYParam)
	want := &streamsv1.Attach{PodUid: string(pod.UID), Stdout: asked(r, corev1.ExecStdoutParam), Stderr: asked(r, corev1.ExecStderrParam) || terminal}
	w, r, done := watchClient(w, r)
	defer done()
	api.HandleContainerAttach(func(ctx context.Context, _, _, _ string, streams api.AttachIO) error {
		stdout, stderr := output(want.GetStdout(), streams.Stdout()), output(want.GetStderr(), streams.Stderr())
		if asked(r, corev1.ExecStdinParam) {
			// The pod asked for it, and was told in an event that it has no effect.
			go func() { _, _ = io.Copy(io.Discard, streams.Stdin()) }() // ends with the connection
		}
		if terminal {
			stdout = lineFeeds{streams.Stdout()}
			stderr = stdout
		}
		return h.failed(r, "attach", pod, h.programs.Attach(ctx, want, stdout, stderr))
	}, api.WithExecStreamIdleTimeout(streamTimeout), api.WithExecStreamCreationTimeout(creationTimeout))(w, r)
}

// lineFeeds writes to a terminal that expects what a terminal would make of lines.
type lineFeeds struct{ to io.Writer }

// Write implements io.Writer.
func (l lineFeeds) Write(p []byte) (int, error) {
	lines := make([]byte, 0, len(p)+64)
	for _, b := range p {
		if b == '\n' {
			lines = append(lines, '\r')
		}
		lines = append(lines, b)
	}
	if _, err := l.to.Write(lines); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h *programHandler) forward(w http.ResponseWriter, r *http.Request) {
	pod := h.find(w, r)
	if pod == nil {
		return
	}
	w, r, done := watchClient(w, r)
	defer done()
	// The handler returns when the client's connection has ended, and with it end
	// all that it carried.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	api.HandlePortForward(func(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
		return h.failed(r, "port-forward", pod, h.programs.Forward(ctx, &streamsv1.Forward{PodUid: string(pod.UID), Port: uint32(port)}, stream))
	}, api.WithPortForwardStreamIdleTimeout(streamTimeout), api.WithPortForwardCreationTimeout(creationTimeout))(w, r)
}

// failed is what the client is told of an error. One that nobody knows the reason of
// is logged.
func (h *programHandler) failed(r *http.Request, what string, pod *corev1.Pod, err error) error {
	if err == nil {
		return nil
	}
	if failureReason(err) == streamsv1.FailureReason_FAILURE_REASON_INTERNAL && r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
		h.log.Warn("a stream into a pod failed", "what", what, "pod", podKey(pod), "error", err)
	}
	return err
}
