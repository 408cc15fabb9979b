// Command local runs a real Kubernetes cluster on one Linux machine, with
// nothing but Go modules and a few Debian packages: no Docker, no registry.
//
// Every node of a cluster is a set of namespaces (network, mount, process,
// host name) that one process, `local node-init`, is the first process of.
// Ending that process ends everything that the node ever started, and the
// node's mounts and network devices go with it: this is how `local down`
// leaves nothing behind, also after a crash.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Where nft and others are, which not every way to become root puts on PATH.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	err := newCommand().ExecuteContext(ctx)
	var exit exitCode
	if errors.As(err, &exit) {
		os.Exit(int(exit))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(1)
	}
}

// exitCode ends the program with the code of a command that it ran; that
// command has said already what was wrong.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "local",
		Short:         "a real Kubernetes cluster on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", "sanfran", "name of the cluster; several can stand side by side")
	open := func() (*cluster, error) { return openCluster(*name) }

	root.AddCommand(
		newBuildCommand(),
		newUpCommand(name),
		newDownCommand(name),
		newStatusCommand(open),
		newKubeconfigCommand(open),
		newBinDirCommand(),
		newNodeIPCommand(open),
		newLoadImageCommand(open),
		newExecCommand(open),
		newProcessCommand(open),
		newNodeInitCommand(),
	)
	return root
}
