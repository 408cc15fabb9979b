package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// proxy is what the gateway is compared with: a pod behind a Service, as the gateway
// is, with the gateway's resources.
type proxy struct{ name, url string }

// goProxy is its name in the figures, and in their bars.
const goProxy = "Go's ReverseProxy"

const proxyPort = 8080

// startProxies starts Go's ReverseProxy, and nginx if it is installed, before an
// upstream. The caller stops them.
func startProxies(ctx context.Context, image, upstream string) (proxies []proxy, stop func() error, err error) {
	resources, err := kubectl(ctx, "", "get", "deployments", "-A", "-l", "app.kubernetes.io/name=sanfran,app.kubernetes.io/component=gateway",
		"-o", "jsonpath={.items[0].spec.template.spec.containers[0].resources}")
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	folder, err := os.MkdirTemp("", "bench-proxy-")
	if err != nil {
		return nil, nil, err
	}
	var pods []string
	stop = func() (err error) {
		if len(pods) > 0 {
			_, err = kubectl(context.WithoutCancel(ctx), "", append([]string{"delete", "-n", namespace, "--wait"}, pods...)...)
		}
		return errors.Join(err, os.RemoveAll(folder))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	start := func(name, title string, command ...string) error {
		// JSON is YAML, too.
		words, err := json.Marshal(command)
		if err != nil {
			return err
		}
		manifest := fmt.Sprintf(proxyManifest, name, namespace, image, words, resources, self)
		if _, err := kubectl(ctx, manifest, "apply", "-f", "-"); err != nil {
			return err
		}
		pods = append(pods, "pod/"+name, "service/"+name)
		if _, err := kubectl(ctx, "", "wait", "-n", namespace, "--for=condition=Ready", "pod/"+name, "--timeout=60s"); err != nil {
			return err
		}
		address, err := kubectl(ctx, "", "get", "service", name, "-n", namespace, "-o", "jsonpath=http://{.spec.clusterIP}")
		if err != nil {
			return err
		}
		proxies = append(proxies, proxy{title, address})
		return answers(ctx, address+"/")
	}
	if err := start("go-proxy", goProxy, "/bench", "--reverse-proxy", upstream); err != nil {
		return nil, nil, err
	}
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: nginx is not installed, so that it is not measured (apt-get install nginx-light)")
		return proxies, stop, nil
	}
	file := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConf, folder, strings.TrimPrefix(upstream, "http://"), proxyPort), 0o644); err != nil {
		return nil, nil, err
	}
	err = start("nginx", "nginx", "/bench", "--chroot", "/host", nginx, "-p", folder, "-c", file, "-e", filepath.Join(folder, "error.log"), "-g", "daemon off;")
	return proxies, stop, err
}

// proxyManifest is a pod that runs a program of the node's.
const proxyManifest = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 0, runAsGroup: 0}
  containers:
    - name: proxy
      image: %[3]s
      command: %[4]s
      resources: %[5]s
      volumeMounts: [{name: bench, mountPath: /bench, readOnly: true}, {name: host, mountPath: /host}]
  volumes:
    - {name: bench, hostPath: {path: %[6]s, type: File}}
    - {name: host, hostPath: {path: /}}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`

// chrooted becomes another program, in another root.
func chrooted(root string, command []string) error {
	if err := syscall.Chroot(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("run %q: %w", command, syscall.Exec(command[0], command, os.Environ()))
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
    listen %[3]d;
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
func reverseProxy(upstream string) error {
	to, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	return http.ListenAndServe(fmt.Sprintf(":%d", proxyPort), &httputil.ReverseProxy{
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
