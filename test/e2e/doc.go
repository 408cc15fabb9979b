// Package e2e tests SanFran as its users meet it: with kubectl, Helm and curl's
// requests, on a real cluster. The tests are built with the tag e2e and run by
// test/e2e/run.sh, which makes a cluster where none is named.
package e2e
