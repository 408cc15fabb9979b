package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/websocket"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/utils/exec"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// fakePrograms are the agents; a nil function fails.
type fakePrograms struct {
	exec    func(ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (int, error)
	attach  func(ctx context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error
	forward func(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error
}

func (f *fakePrograms) Exec(ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (int, error) {
	return f.exec(ctx, want, stdin, stdout, stderr, sizes)
}

func (f *fakePrograms) Attach(ctx context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error {
	return f.attach(ctx, want, stdout, stderr)
}

func (f *fakePrograms) Forward(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error {
	return f.forward(ctx, want, conn)
}

// startKubelet serves a kubelet API on loopback; parts that it lacks know no pods.
func startKubelet(t *testing.T, k kubeletAPI) *httptest.Server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	none := func() []*corev1.Pod { return nil }
	if k.pods == nil {
		k.pods = none
	}
	if k.logs == nil {
		k.logs = &logHandler{pods: none, log: log}
	}
	if k.programs == nil {
		k.programs = &programHandler{pods: none, log: log}
	}
	if k.usage == nil {
		k.usage = newUsageReader(nil)
	}
	server := httptest.NewServer(k.handler())
	t.Cleanup(server.Close)
	return server
}

func programsOf(t *testing.T, programs *fakePrograms, pod *corev1.Pod) *httptest.Server {
	t.Helper()
	pods := func() []*corev1.Pod { return []*corev1.Pod{pod} }
	return startKubelet(t, kubeletAPI{pods: pods, programs: &programHandler{pods: pods, programs: programs, log: slog.New(slog.DiscardHandler)}})
}

// stream does what kubectl and the API server do with one of the streams.
func stream(t *testing.T, server *httptest.Server, path string, options remotecommand.StreamOptions) error {
	t.Helper()
	return streamUntil(t, t.Context(), server.URL, path, options)
}

func streamUntil(t *testing.T, ctx context.Context, address, path string, options remotecommand.StreamOptions) error {
	t.Helper()
	to, err := url.Parse(address + path)
	if err != nil {
		t.Fatal(err)
	}
	query := to.Query()
	for name, wanted := range map[string]bool{"input": options.Stdin != nil, "output": options.Stdout != nil, "error": options.Stderr != nil, "tty": options.Tty} {
		if wanted {
			query.Set(name, "1")
		}
	}
	to.RawQuery = query.Encode()
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: address}, http.MethodPost, to)
	if err != nil {
		t.Fatal(err)
	}
	return executor.StreamWithContext(ctx, options)
}

func TestExecReachesTheProgram(t *testing.T) {
	var asked *streamsv1.Exec
	server := programsOf(t, &fakePrograms{exec: func(_ context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, _ <-chan *streamsv1.TerminalSize) (int, error) {
		asked = want
		if _, err := io.Copy(stdout, stdin); err != nil {
			return 0, err
		}
		fmt.Fprint(stderr, "and this")
		return 7, nil
	}}, hello(running))
	sent := strings.Repeat("0123456789", 100_000)
	var stdout, stderr bytes.Buffer
	err := stream(t, server, "/exec/default/hello/hello?command=a&command=b+c", remotecommand.StreamOptions{Stdin: strings.NewReader(sent), Stdout: &stdout, Stderr: &stderr})
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("it ended with %v, want exit code 7", err)
	}
	if stdout.String() != sent || stderr.String() != "and this" {
		t.Errorf("%d bytes of %d, %q", stdout.Len(), len(sent), &stderr)
	}
	want := &streamsv1.Exec{PodUid: "uid-hello", Command: []string{"a", "b c"}, Stdin: true, Stdout: true, Stderr: true}
	if diff := cmp.Diff(want, asked, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// sizeQueue gives sizes to a client.
type sizeQueue chan *remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize { return <-q }

func TestExecWithATerminal(t *testing.T) {
	sizes := make(sizeQueue, 2)
	sizes <- &remotecommand.TerminalSize{Width: 80, Height: 24}
	sizes <- &remotecommand.TerminalSize{Width: 132, Height: 50}
	server := programsOf(t, &fakePrograms{exec: func(_ context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (int, error) {
		for range 2 {
			size := <-sizes
			fmt.Fprintf(stdout, "%d x %d, ", size.GetColumns(), size.GetRows())
		}
		fmt.Fprintf(stdout, "terminal %v, stdin %v, stderr %v", want.GetTerminal(), stdin != nil, stderr != nil)
		return 0, nil
	}}, hello(running))
	var stdout bytes.Buffer
	if err := stream(t, server, "/exec/default/hello/hello?command=sh", remotecommand.StreamOptions{Stdin: strings.NewReader("x"), Stdout: &stdout, Tty: true, TerminalSizeQueue: sizes}); err != nil {
		t.Error(err)
	}
	if got := stdout.String(); got != "80 x 24, 132 x 50, terminal true, stdin true, stderr false" {
		t.Errorf("%q", got)
	}
	close(sizes)
}

// Whoever goes away ends the program, by each protocol, also one that says nothing.
func TestExecEndsWithItsClient(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	server := programsOf(t, &fakePrograms{exec: func(ctx context.Context, _ *streamsv1.Exec, _ io.Reader, _, _ io.Writer, _ <-chan *streamsv1.TerminalSize) (int, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return 0, ctx.Err()
	}}, hello(running))
	path := "/exec/default/hello/hello?command=sleep"
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- streamUntil(t, ctx, server.URL, path, remotecommand.StreamOptions{Stdout: io.Discard}) }()
	<-begun
	leave()
	<-ended
	<-done

	// Nor does input that nobody reads hide the end.
	address, cut := cuttable(t, server)
	input := endless{begun: make(chan struct{})}
	ctx, leave = context.WithCancel(t.Context())
	go func() {
		done <- streamUntil(t, ctx, address, path, remotecommand.StreamOptions{Stdin: &input, Stdout: io.Discard})
	}()
	<-begun
	<-input.begun
	cut() // client-go, if told to leave, would first wait for what it is about to send
	<-ended
	leave()
	<-done

	config, err := websocket.NewConfig("ws"+strings.TrimPrefix(server.URL, "http")+path+"&output=1", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	conn.Close()
	<-ended
}

// cuttable is a URL that leads to the server, until all its connections are cut, as
// by the end of a client's process.
func cuttable(t *testing.T, server *httptest.Server) (address string, cut func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cut := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	t.Cleanup(func() { cut(); serving.Wait() })
	context.AfterFunc(ctx, func() { listener.Close() })
	serving.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				in.Close()
				return
			}
			context.AfterFunc(ctx, func() { in.Close(); out.Close() })
			serving.Go(func() { _, _ = io.Copy(out, in) })
			serving.Go(func() { _, _ = io.Copy(in, out) })
		}
	})
	return "http://" + listener.Addr().String(), cut
}

// endless is input without end. begun is closed when it is first read.
type endless struct {
	begun chan struct{}
	once  sync.Once
}

func (e *endless) Read(p []byte) (int, error) {
	e.once.Do(func() { close(e.begun) })
	return len(p), nil
}

func TestExecSaysWhyNot(t *testing.T) {
	refuse := func(reason streamsv1.FailureReason) *fakePrograms {
		return &fakePrograms{
			exec: func(context.Context, *streamsv1.Exec, io.Reader, io.Writer, io.Writer, <-chan *streamsv1.TerminalSize) (int, error) {
				return 0, failedLog(reason)
			},
			attach: func(context.Context, *streamsv1.Attach, io.Writer, io.Writer) error { return failedLog(reason) },
		}
	}
	waiting := func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "hello", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	}
	for _, c := range []struct {
		name, path string
		change     func(*corev1.Pod)
		stdin      bool
		want       string
	}{
		{"no such pod", "/exec/default/other/hello?command=sh", running, false, `pod "other" does not exist`},
		{"no such container", "/exec/default/hello/other?command=sh", running, false, `container "other" not found in pod "hello"`},
		{"no command", "/exec/default/hello/hello", running, false, "no command"},
		{"waiting", "/exec/default/hello/hello?command=sh", waiting, false, "does not run: CrashLoopBackOff"},
		{"no status", "/attach/default/hello/hello", func(*corev1.Pod) {}, false, "not available"},
		{"attach with input", "/attach/default/hello/hello", running, true, "no standard input; attach without --stdin"},
		{"refused", "/exec/default/hello/hello?command=sh", running, false, "why"},
		{"attach refused", "/attach/default/hello/hello", running, false, "why"},
	} {
		server := programsOf(t, refuse(streamsv1.FailureReason_FAILURE_REASON_REFUSED), hello(c.change))
		options := remotecommand.StreamOptions{Stdout: io.Discard}
		if c.stdin {
			options.Stdin = strings.NewReader("")
		}
		if err := stream(t, server, c.path, options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAttachPassesOnWhatIsWritten(t *testing.T) {
	server := programsOf(t, &fakePrograms{attach: func(_ context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error {
		for _, w := range []io.Writer{stdout, stderr} {
			if w != nil {
				fmt.Fprintf(w, "of %s\n%v %v\n", want.GetPodUid(), want.GetStdout(), want.GetStderr())
			}
		}
		return nil
	}}, hello(running))
	var stdout, stderr bytes.Buffer
	if err := stream(t, server, "/attach/default/hello/hello", remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Error(err)
	}
	if want := "of uid-hello\ntrue true\n"; stdout.String() != want || stderr.String() != want {
		t.Errorf("%q, %q", &stdout, &stderr)
	}
	// A terminal shows both, with its own ends of lines.
	stdout.Reset()
	if err := stream(t, server, "/attach/default/hello/hello", remotecommand.StreamOptions{Stdout: &stdout, Tty: true}); err != nil {
		t.Error(err)
	}
	if want := "of uid-hello\r\ntrue true\r\n"; stdout.String() != want+want {
		t.Errorf("%q", &stdout)
	}
}

// Several connections at once, each with an end of its own for each way; all end
// with the client.
func TestPortForward(t *testing.T) {
	begun, ended := make(chan struct{}, 10), make(chan struct{}, 10)
	server := programsOf(t, &fakePrograms{forward: func(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error {
		switch want.GetPort() {
		case 9:
			return failedLog(streamsv1.FailureReason_FAILURE_REASON_REFUSED)
		case 10:
			begun <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		}
		all, err := io.ReadAll(conn) // until the client has said all
		if err != nil {
			return err
		}
		fmt.Fprintf(conn, "%s at %d: %s", want.GetPodUid(), want.GetPort(), all)
		return conn.Close()
	}}, hello(running))
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(server.URL + "/portForward/default/hello")
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, to).Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	id := 0
	open := func(port string) (data io.ReadWriteCloser, failure io.Reader) {
		t.Helper()
		id++
		create := func(kind string) io.ReadWriteCloser {
			headers := http.Header{}
			headers.Set(corev1.StreamType, kind)
			headers.Set(corev1.PortHeader, port)
			headers.Set(corev1.PortForwardRequestIDHeader, fmt.Sprint(id))
			stream, err := conn.CreateStream(headers)
			if err != nil {
				t.Fatal(err)
			}
			return stream
		}
		failure = create(corev1.StreamTypeError)
		return create(corev1.StreamTypeData), failure
	}
	first, _ := open("8080")
	second, _ := open("8081")
	for _, c := range []struct {
		stream io.ReadWriteCloser
		want   string
	}{{second, "uid-hello at 8081: question"}, {first, "uid-hello at 8080: question"}} {
		fmt.Fprint(c.stream, "question")
		c.stream.Close() // this way
		if got, err := io.ReadAll(c.stream); err != nil || string(got) != c.want {
			t.Errorf("%q, %v; want %q", got, err, c.want)
		}
	}
	_, failure := open("9")
	if why, err := io.ReadAll(failure); err != nil || !strings.Contains(string(why), "why") {
		t.Errorf("%q, %v", why, err)
	}
	open("10")
	<-begun
	conn.Close()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the connection does not end with the client")
	}
}
