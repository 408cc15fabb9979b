// Command sanfrand is every process of SanFran that runs in a cluster: the
// control plane, the node agent and the router. Which one it is, its first
// argument says; everything else is flags, which the Helm chart sets.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set at link time: -ldflags "-X main.version=…".
var version = "dev"

func main() {
	if err := newRootCommand().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "sanfrand: %v\n", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "sanfrand",
		Short:         "The processes of SanFran: control plane, node agent and router",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetVersionTemplate("sanfrand {{.Version}}\n")
	root.AddCommand(newControlPlaneCommand(), newAgentCommand(), newRouterCommand(), newVersionCommand())
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "sanfrand", version)
			return err
		},
	}
}
