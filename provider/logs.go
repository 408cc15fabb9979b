package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// Logs reads what function pods write.
type Logs interface {
	// ReadLog reads a pod's log where it is, until ctx ends. When there is
	// nothing to read its error, or the reader's, has a method FailureReason.
	// The caller closes the reader.
	ReadLog(ctx context.Context, want *streamsv1.ReadLog) (io.ReadCloser, error)
}

// failureReason is why there is no log, as far as the pool knows.
func failureReason(err error) streamsv1.FailureReason {
	var failure interface {
		error
		FailureReason() streamsv1.FailureReason
	}
	if errors.As(err, &failure) {
		return failure.FailureReason()
	}
	return streamsv1.FailureReason_FAILURE_REASON_INTERNAL
}

// logHandler is the kubelet API's /containerLogs. virtual-kubelet has one, too,
// but that takes a tail of no lines for all lines, knows no stream, and answers
// with texts and codes that are not the kubelet's.
type logHandler struct {
	pods func() []*corev1.Pod
	logs Logs
	log  *slog.Logger
}

// ServeHTTP implements http.Handler. The request's path has the values namespace,
// pod and container.
func (h *logHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	options, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	name, container := r.PathValue("pod"), r.PathValue("container")
	pod := podNamed(h.pods(), r.PathValue("namespace"), name)
	switch {
	case pod == nil:
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return
	case !hasContainer(pod, container):
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, name), http.StatusNotFound)
		return
	}
	if why := noLog(pod, container); why != "" {
		http.Error(w, why, http.StatusBadRequest)
		return
	}
	reader, err := h.logs.ReadLog(r.Context(), readLog(pod, options))
	if err != nil {
		h.refuse(w, r, pod, container, err)
		return
	}
	defer reader.Close()
	h.pass(w, r, pod, reader)
}

// pass passes a log on as it comes. An end that is not its end cuts the
// connection, so that nobody takes it for one.
func (h *logHandler) pass(w http.ResponseWriter, r *http.Request, pod *corev1.Pod, reader io.Reader) {
	w.Header().Set("Content-Type", "text/plain")
	flusher := http.NewResponseController(w)
	_ = flusher.Flush() // whoever follows a silent pod is answered, too
	buffer := make([]byte, 32<<10)
	for {
		n, err := reader.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return // the caller is gone
			}
			if err := flusher.Flush(); err != nil {
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && r.Context().Err() != nil:
			return
		case err != nil:
			h.log.Warn("a log ended early", "pod", podKey(pod), "error", err)
			panic(http.ErrAbortHandler)
		}
	}
}

// refuse says why there is no log, in the kubelet's words where it has some.
func (h *logHandler) refuse(w http.ResponseWriter, r *http.Request, pod *corev1.Pod, container string, err error) {
	switch failureReason(err) {
	case streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS:
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod.Name), http.StatusBadRequest)
	case streamsv1.FailureReason_FAILURE_REASON_NO_POD:
		http.Error(w, fmt.Sprintf("container %q in pod %q is not available: %v", container, pod.Name, err), http.StatusBadRequest)
	case streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY:
		http.Error(w, fmt.Sprintf("the log of pod %q cannot be read now: %v", pod.Name, err), http.StatusServiceUnavailable)
	case streamsv1.FailureReason_FAILURE_REASON_BUSY:
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	default:
		if r.Context().Err() == nil {
			h.log.Error("a log could not be read", "pod", podKey(pod), "error", err)
		}
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// podNamed is the pod of that name, or nil.
func podNamed(pods []*corev1.Pod, namespace, name string) *corev1.Pod {
	for _, pod := range pods {
		if pod.Name == name && pod.Namespace == namespace {
			return pod
		}
	}
	return nil
}

func hasContainer(pod *corev1.Pod, name string) bool {
	for _, c := range pod.Spec.Containers {
		if c.Name == name {
			return true
		}
	}
	return false
}

// noLog says why a container cannot have written anything, or nothing.
func noLog(pod *corev1.Pod, container string) string {
	for _, c := range pod.Status.ContainerStatuses {
		switch {
		case c.Name != container:
		case c.State.Waiting != nil && c.LastTerminationState.Terminated == nil:
			return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, c.State.Waiting.Reason)
		case c.State.Terminated != nil:
			return fmt.Sprintf("container %q in pod %q is terminated", container, pod.Name)
		default:
			return ""
		}
	}
	return fmt.Sprintf("container %q in pod %q is not available", container, pod.Name)
}

// readLog asks the pool for what the options ask for.
func readLog(pod *corev1.Pod, o *corev1.PodLogOptions) *streamsv1.ReadLog {
	want := &streamsv1.ReadLog{
		PodUid: string(pod.UID), Previous: o.Previous, Follow: o.Follow, Timestamps: o.Timestamps,
		TailLines: o.TailLines, LimitBytes: o.LimitBytes,
	}
	switch {
	case o.SinceTime != nil:
		want.Since = timestamppb.New(o.SinceTime.Time)
	case o.SinceSeconds != nil:
		want.Since = timestamppb.New(time.Now().Add(-time.Duration(*o.SinceSeconds) * time.Second))
	}
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamStdout:
			want.Stream = streamsv1.LogStream_LOG_STREAM_STDOUT
		case corev1.LogStreamStderr:
			want.Stream = streamsv1.LogStream_LOG_STREAM_STDERR
		}
	}
	return want
}

// logOptions reads the options of a query as the API server writes them, and
// checks them as a kubelet does.
func logOptions(query url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{
		Follow: isSet(query, "follow"), Previous: isSet(query, "previous"), Timestamps: isSet(query, "timestamps"),
	}
	for key, number := range map[string]struct {
		to    **int64
		least int64
	}{"tailLines": {&o.TailLines, 0}, "limitBytes": {&o.LimitBytes, 1}, "sinceSeconds": {&o.SinceSeconds, 1}} {
		text := query.Get(key)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < number.least {
			return nil, fmt.Errorf("%s is %q: give a whole number of at least %d", key, text, number.least)
		}
		*number.to = &n
	}
	if text := query.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("sinceTime is %q: give a time as RFC 3339 writes it", text)
		}
		if o.SinceSeconds != nil {
			return nil, errors.New("sinceSeconds and sinceTime are both given: give one")
		}
		o.SinceTime = &metav1.Time{Time: at}
	}
	if text := query.Get("stream"); text != "" && text != corev1.LogStreamAll {
		if text != corev1.LogStreamStdout && text != corev1.LogStreamStderr {
			return nil, fmt.Errorf("stream is %q: give %s, %s or %s", text, corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr)
		}
		if o.TailLines != nil {
			return nil, errors.New("tailLines and one stream cannot be given together")
		}
		o.Stream = &text
	}
	return o, nil
}

// isSet reads a flag as the API's own decoder does.
func isSet(query url.Values, key string) bool {
	values, ok := query[key]
	return ok && (len(values) == 0 || values[0] != "0" && !strings.EqualFold(values[0], "false"))
}
