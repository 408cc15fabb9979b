// Command images builds SanFran's OCI image without Docker, and the Node.js
// root filesystems that function containers run on.
//
// The image is put together from six layers, the ones that change least
// first, so that a new sanfrand moves only a few megabytes:
//
//	base      CA certificates, /etc/passwd, /tmp
//	node24    /usr/share/sanfran/rootfs/node24: Node.js, its libraries, a shell
//	node26    the same of Node.js 26
//	runc      /usr/bin/runc, static
//	worker    /opt/sanfran/worker inside each root filesystem
//	sanfrand  /usr/bin/sanfrand, static
//
// Everything that comes from outside is pinned by a hash: Node.js (an npm
// package) and the libraries (Debian packages) in locks/, the worker's
// dependencies in its own package-lock.json. Entries are sorted, owned by root
// and carry one fixed time, so the same input gives the same digest.
//
// Layers, downloads and unpacked root filesystems are kept in the cache folder
// ($SANFRAN_CACHE) under keys made of their inputs. Every cache entry is
// written beside its final name and renamed into place; several builds may run
// at once, and the folder may be deleted at any time.
package main
