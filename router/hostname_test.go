package router

import "testing"

func TestParseHost(t *testing.T) {
	for host, want := range map[string]FunctionKey{
		"hello.default.fn.example.com":      {"default", "hello"},
		"hello.default.fn.example.com:8080": {"default", "hello"},
		"hello.default.fn.example.com.":     {"default", "hello"},
		"Hello.DEFAULT.Fn.Example.com":      {"default", "hello"},
		"hello.v2.shop.fn.example.com":      {"shop", "hello.v2"},
		"fn.example.com":                    {},
		"hello.fn.example.com":              {},
		".default.fn.example.com":           {},
		"hello..fn.example.com":             {},
		"hello.defaultfn.example.com":       {},
		"hello.default.example.com":         {},
		"hello.default.fn.example.com.evil": {},
		"":                                  {},
		"[::1]:80":                          {},
	} {
		got, ok := parseHost(host, "fn.example.com")
		if got != want || ok != (want != FunctionKey{}) {
			t.Errorf("parseHost(%q) = %v, %v; want %v", host, got, ok, want)
		}
	}
	if _, ok := parseHost("hello.default.", ""); ok {
		t.Error("a host is a function's though there is no suffix")
	}
}

func TestHostSuffixes(t *testing.T) {
	for suffix, ok := range map[string]bool{
		"fn.example.com": true, "local": true, "": true,
		".fn.example.com": false, "fn.example.com.": false, "*.example.com": false, "Fn.example.com": false, "fn:80": false, "a b": false,
	} {
		if err := CheckHostSuffix(suffix); (err == nil) != ok {
			t.Errorf("CheckHostSuffix(%q) = %v", suffix, err)
		}
	}
}
