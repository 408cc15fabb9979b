package router

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateAge is how long a certificate is used before its files are looked at
// again. A Secret takes about a minute to reach its mounts anyway.
const certificateAge = 10 * time.Second

// Certificate is a TLS certificate in two files, as a mounted Secret of type
// kubernetes.io/tls has it. New connections get the new one some seconds after the
// files have changed. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	cert    []byte // the contents it was made of
	key     []byte
	checked time.Time
}

// LoadCertificate reads the files for the first time.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.checked = time.Now()
	return c, nil
}

// get is tls.Config.GetCertificate.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certificateAge {
		c.checked = now
		if err := c.load(); err != nil {
			// Certificate and key may be of two versions for a moment.
			c.log.Error("the TLS certificate is not renewed, the former one is still used", "err", err)
		}
	}
	return c.loaded, nil
}

// load reads the files if they have changed. The caller holds the lock, or is the
// only one.
func (c *Certificate) load() error {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS key: %w", err)
	}
	if c.loaded != nil && bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("TLS certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	if c.loaded != nil {
		c.log.Info("the TLS certificate has changed", "notAfter", pair.Leaf.NotAfter)
	}
	c.loaded, c.cert, c.key = &pair, cert, key
	return nil
}
