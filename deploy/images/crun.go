package main

import "context"

// crun is the OCI runtime that may be chosen in place of runc, as Debian builds
// it, and the libraries it is linked with: the only ones in the image's own root.
var crun = nodeRuntime{Name: "crun", Release: "12 (bookworm)", Debian: []debianPackage{
	{Name: "crun", Keep: []string{"usr/bin/crun"}},
	{Name: "libc6", Keep: []string{libDir + "libc.so.6", libDir + "ld-linux-x86-64.so.2", "usr/lib64/"}},
	{Name: "libcap2", Keep: []string{libDir}},
	{Name: "libseccomp2", Keep: []string{libDir}},
	{Name: "libyajl2", Keep: []string{libDir}},
	{Name: "libsystemd0", Keep: []string{libDir}},
	{Name: "libgcrypt20", Keep: []string{libDir}},
	{Name: "libgpg-error0", Keep: []string{libDir}},
	{Name: "liblz4-1", Keep: []string{libDir}},
	{Name: "liblzma5", Keep: []string{libDir}},
	{Name: "libzstd1", Keep: []string{libDir}},
}}

// crunTree is rt's packages, where its programs find their libraries.
func (b *builder) crunTree(ctx context.Context, rt nodeRuntime, l lock) (*tree, error) {
	t := newTree()
	for i, p := range rt.Debian {
		deb, err := b.deb(ctx, l.Debian[i])
		if err != nil {
			return nil, err
		}
		if err := b.addDeb(ctx, t, p, deb); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{"lib": "usr/lib", "lib64": "usr/lib64"} {
		if err := t.addSymlink(name, target); err != nil {
			return nil, err
		}
	}
	return t, nil
}
