package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newControlPlaneCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "controlplane",
		Short: "Run the control plane: the virtual node, placement and routes",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("controlplane: this build does not hold it yet")
		},
	}
}
