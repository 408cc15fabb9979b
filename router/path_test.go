package router

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePath(t *testing.T) {
	fn := func(namespace, name, path, prefix string) *target {
		return &target{function: FunctionKey{namespace, name}, path: path, prefix: prefix}
	}
	for escaped, want := range map[string]*target{
		"/fn/hello":             fn("default", "hello", "/", "/fn/hello"),
		"/fn/hello/":            fn("default", "hello", "/", "/fn/hello"),
		"/fn/hello/a/b":         fn("default", "hello", "/a/b", "/fn/hello"),
		"/fn/hello/a%2Fb":       fn("default", "hello", "/a%2Fb", "/fn/hello"),
		"/fn/hello//a":          fn("default", "hello", "//a", "/fn/hello"),
		"/fn/hello/../x":        fn("default", "hello", "/../x", "/fn/hello"),
		"/fn/h%65llo/%e2%82%ac": fn("default", "hello", "/%e2%82%ac", "/fn/h%65llo"),
		"/ns/shop/fn/cart/1":    fn("shop", "cart", "/1", "/ns/shop/fn/cart"),
		"/":                     nil,
		"/fn":                   nil,
		"/fn/":                  nil,
		"/fn//x":                nil,
		"/fn/a%2Fb":             nil,
		"/ns//fn/cart":          nil,
		"/ns/shop":              nil,
		"/ns/shop/cart":         nil,
		"/fnx/hello":            nil,
	} {
		got, ok := parsePath(escaped, "default")
		if want == nil {
			if ok {
				t.Errorf("parsePath(%q) = %+v, want no function's path", escaped, got)
			}
			continue
		}
		if !ok {
			t.Errorf("parsePath(%q) found no function", escaped)
			continue
		}
		if diff := cmp.Diff(*want, got, cmp.AllowUnexported(target{})); diff != "" {
			t.Errorf("parsePath(%q) (-want +got):\n%s", escaped, diff)
		}
	}
}
