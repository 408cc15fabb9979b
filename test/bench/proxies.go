package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// proxy is what the gateway is compared with: a process of its own, as the gateway is.
type proxy struct{ name, url string }

// goProxy is its name in the figures, and in their bars.
const goProxy = "Go's ReverseProxy"

// startProxies starts Go's ReverseProxy, and nginx if it is installed, before an
// upstream. The caller stops them.
func startProxies(ctx context.Context, upstream string) (proxies []proxy, stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running []*exec.Cmd
	var folder string
	stop = func() error {
		cancel()
		for _, cmd := range running {
			_ = cmd.Wait() // it was killed
		}
		return os.RemoveAll(folder)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	if folder, err = os.MkdirTemp("", "bench-proxy-"); err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, "--reverse-proxy", upstream)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	running = append(running, cmd)
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, nil, fmt.Errorf("the reverse proxy has not said its address: %w", err)
	}
	proxies = append(proxies, proxy{goProxy, "http://" + strings.TrimSpace(address)})

	nginx, err := exec.LookPath("nginx")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: nginx is not installed, so that it is not measured (apt-get install nginx-light)")
		return proxies, stop, nil
	}
	const listen = "127.0.0.1:19080"
	file := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(nginxConf, folder, strings.TrimPrefix(upstream, "http://"), listen)), 0o644); err != nil {
		return nil, nil, err
	}
	cmd = exec.CommandContext(ctx, nginx, "-p", folder, "-c", file, "-e", filepath.Join(folder, "error.log"), "-g", "daemon off;")
	// Its master ends its workers.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	running = append(running, cmd)
	if err := answers(ctx, "http://"+listen+"/"); err != nil {
		return nil, nil, err
	}
	return append(proxies, proxy{"nginx", "http://" + listen}), stop, nil
}

const nginxConf = `
pid %[1]s/pid;
worker_processes auto;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  keepalive_requests 100000000;
  upstream function { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://function;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`

// reverseProxy serves as Go's own proxy, tuned, before an upstream until it is killed.
// It prints its address.
func reverseProxy(upstream string) error {
	to, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true, IdleConnTimeout: time.Minute},
		BufferPool: &buffers{},
	})
}

// buffers are of 32 KiB, as those that ReverseProxy makes by itself.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buffer[:]
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[32 << 10]byte)(buffer)) }
