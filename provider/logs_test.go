package provider

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

type fakeLogs func(*streamsv1.ReadLog) (io.ReadCloser, error)

func (f fakeLogs) ReadLog(_ context.Context, want *streamsv1.ReadLog) (io.ReadCloser, error) {
	return f(want)
}

type failedLog streamsv1.FailureReason

func (failedLog) Error() string                            { return "why" }
func (f failedLog) FailureReason() streamsv1.FailureReason { return streamsv1.FailureReason(f) }

func running(pod *corev1.Pod) {
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "hello", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

// logsOf serves the kubelet API's logs of a pod on loopback.
func logsOf(t *testing.T, pod *corev1.Pod, logs fakeLogs) *httptest.Server {
	t.Helper()
	pods := func() []*corev1.Pod { return []*corev1.Pod{pod} }
	server := httptest.NewServer(kubeletAPI{pods: pods, logs: &logHandler{pods: pods, logs: logs, log: slog.New(slog.DiscardHandler)}, programs: &programHandler{}, usage: &usageReader{}}.handler())
	t.Cleanup(server.Close)
	return server
}

func TestLogOptionsReachTheAgent(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	for query, want := range map[string]*streamsv1.ReadLog{
		"":                                      {},
		"follow=true&timestamps=true":           {Follow: true, Timestamps: true},
		"follow=false&previous=1":               {Previous: true},
		"tailLines=0":                           {TailLines: n(0)},
		"tailLines=7&limitBytes=100":            {TailLines: n(7), LimitBytes: n(100)},
		"sinceTime=2026-11-22T10:00:00Z":        {Since: timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))},
		"sinceTime=2026-11-22T12:00:00%2B02:00": {Since: timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))},
		"stream=Stderr":                         {Stream: streamsv1.LogStream_LOG_STREAM_STDERR},
		"stream=Stdout":                         {Stream: streamsv1.LogStream_LOG_STREAM_STDOUT},
		"stream=All&tailLines=1":                {TailLines: n(1)},
	} {
		var asked *streamsv1.ReadLog
		server := logsOf(t, hello(running), func(w *streamsv1.ReadLog) (io.ReadCloser, error) {
			asked = w
			return io.NopCloser(strings.NewReader("the log\n")), nil
		})
		code, body := ask(t, server.URL+"/containerLogs/default/hello/hello?"+query)
		want.PodUid = "uid-hello"
		if diff := cmp.Diff(want, asked, protocmp.Transform()); diff != "" || code != 200 || body != "the log\n" {
			t.Errorf("%q: %d %q\n%s", query, code, body, diff)
		}
	}
	var since time.Time
	server := logsOf(t, hello(running), func(w *streamsv1.ReadLog) (io.ReadCloser, error) {
		since = w.GetSince().AsTime()
		return io.NopCloser(strings.NewReader("")), nil
	})
	ask(t, server.URL+"/containerLogs/default/hello/hello?sinceSeconds=60")
	if ago := time.Since(since); ago < time.Minute || ago > 2*time.Minute {
		t.Errorf("sinceSeconds=60 is %v ago", ago)
	}
}

func ask(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestWhereThereIsNoLogTheAnswerSaysWhy(t *testing.T) {
	waiting := func(reason string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "hello", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
		}
	}
	crashed := func(pod *corev1.Pod) {
		waiting("CrashLoopBackOff")(pod)
		pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{}
	}
	for _, c := range []struct {
		name, path string
		change     func(*corev1.Pod)
		err        error
		code       int
		body       string
	}{
		{"no such pod", "other/hello", running, nil, 404, `pod "other" does not exist`},
		{"no such container", "hello/other", running, nil, 404, `container "other" not found in pod "hello"`},
		{"waiting", "hello/hello", waiting("ContainerCreating"), nil, 400, `container "hello" in pod "hello" is waiting to start: ContainerCreating`},
		{"no status", "hello/hello", func(*corev1.Pod) {}, nil, 400, `container "hello" in pod "hello" is not available`},
		{"crashed", "hello/hello", crashed, nil, 200, "text"},
		{"bad tail", "hello/hello?tailLines=-1", running, nil, 422, "tailLines"},
		{"bad limit", "hello/hello?limitBytes=0", running, nil, 422, "limitBytes"},
		{"bad since", "hello/hello?sinceSeconds=x", running, nil, 422, "sinceSeconds"},
		{"bad time", "hello/hello?sinceTime=yesterday", running, nil, 422, "RFC 3339"},
		{"two sinces", "hello/hello?sinceTime=2026-11-22T10:00:00Z&sinceSeconds=1", running, nil, 422, "give one"},
		{"bad stream", "hello/hello?stream=stdin", running, nil, 422, "stdin"},
		{"tail of a stream", "hello/hello?stream=Stdout&tailLines=1", running, nil, 422, "together"},
		{"no previous", "hello/hello?previous=true", running, failedLog(streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS), 400, `previous terminated container "hello" in pod "hello" not found`},
		{"away", "hello/hello", running, failedLog(streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY), 503, `the log of pod "hello" cannot be read now: why`},
		{"no home", "hello/hello", running, failedLog(streamsv1.FailureReason_FAILURE_REASON_NO_POD), 400, "not available"},
		{"busy", "hello/hello", running, failedLog(streamsv1.FailureReason_FAILURE_REASON_BUSY), 429, "why"},
		{"broken", "hello/hello", running, errors.New("no idea"), 500, "no idea"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := logsOf(t, hello(c.change), func(*streamsv1.ReadLog) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("text")), c.err
			})
			if code, body := ask(t, server.URL+"/containerLogs/default/"+c.path); code != c.code || !strings.Contains(body, c.body) {
				t.Errorf("%d %q, want %d %q", code, body, c.code, c.body)
			}
		})
	}
}

// Each piece is passed on when it comes, the first answer before there is any, and
// an end that is none is an error for the caller.
func TestLogsFlowAsTheyCome(t *testing.T) {
	from, to := io.Pipe()
	server := logsOf(t, hello(running), func(*streamsv1.ReadLog) (io.ReadCloser, error) { return from, nil })
	res, err := http.Get(server.URL + "/containerLogs/default/hello/hello?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); res.StatusCode != 200 || kind != "text/plain" {
		t.Errorf("%d %s", res.StatusCode, kind)
	}
	for _, piece := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(to, piece); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != piece {
			t.Fatalf("%q, %v", got, err)
		}
	}
	to.CloseWithError(failedLog(streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY))
	if rest, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("an end that is none looks like one, after %q", rest)
	}
}
