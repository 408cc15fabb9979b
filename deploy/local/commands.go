package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"
)

type opener func() (*cluster, error)

func newStatusCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show nodes and what runs on them; fails unless all of it runs",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			well := true
			out := tabwriter.NewWriter(command.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "NODE\tADDRESS\tPROGRAM\tSTATE\tSTARTS\tSINCE\tLAST EXIT")
			for _, n := range c.nodes() {
				if _, ok := n.process(); !ok {
					fmt.Fprintf(out, "%s\t%s\t-\tdead\n", n.name(), n.address4())
					well = false
					continue
				}
				status, err := readJSON[statusList](n.path("status.json"))
				if err != nil {
					return err
				}
				for _, u := range status.Units {
					state, since := "running", time.Since(u.Since).Round(time.Second).String()
					if !u.Running {
						state, since, well = "dead", "-", false
						if u.Stopped {
							state = "stopped"
						}
					}
					fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", n.name(), n.address4(), u.Name, state, u.Starts, since, u.LastExit)
				}
			}
			out.Flush()
			if !well {
				return fmt.Errorf("cluster %s is not all running; `make cluster CLUSTER=%s NODES=%d` brings it back, logs are in %s", c.Name, c.Name, c.Nodes, c.path("log"))
			}
			return nil
		},
	}
}

func newKubeconfigCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "print the path of the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := open()
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), c.kubeconfigPath())
			}
			return err
		},
	}
}

func newNodeIPCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "node-ip [node]",
		Short: "print the address of a node (the first one)",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			n := c.node(1)
			if len(arguments) > 0 {
				if n, err = c.findNode(arguments[0]); err != nil {
					return err
				}
			}
			fmt.Fprintln(command.OutOrStdout(), n.address4())
			return nil
		},
	}
}

func newLoadImageCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "load-image archive...",
		Short: "give every node the images of OCI or docker archives",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, paths []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			bin, err := build(command.Context(), os.Stderr, []string{"containerd"})
			if err != nil {
				return err
			}
			for _, path := range paths {
				if err := c.loadArchive(command.Context(), bin, path); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newExecCommand(open opener) *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "exec node -- command...",
		Short: "run a command in a node's network",
		Long: `Run a command in a node's network namespace, with the machine's files, the
cluster's programs on PATH and KUBECONFIG set. With --all it runs in all of the
node's namespaces, with the node's view of files and processes.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(command *cobra.Command, arguments []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			n, err := c.findNode(arguments[0])
			if err != nil {
				return err
			}
			p, ok := n.process()
			if !ok {
				return fmt.Errorf("node %s does not run; `make cluster CLUSTER=%s` starts it", n.name(), c.Name)
			}
			dir, err := binDir()
			if err != nil {
				return err
			}
			os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			os.Setenv("KUBECONFIG", c.kubeconfigPath())
			if all {
				return runCommand(p.enter(false, arguments[1:]...))
			}
			return execIn(p, arguments[1:])
		},
	}
	command.Flags().BoolVar(&all, "all", false, "enter all of the node's namespaces")
	return command
}

// execIn becomes command, in the network of a node. It returns only if that
// cannot be.
func execIn(p process, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	// A new program keeps the namespaces of the thread that started it.
	runtime.LockOSThread()
	namespace, err := netns.GetFromPid(p.PID)
	if err != nil {
		return err
	}
	if err := netns.Set(namespace); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, command, os.Environ()))
}

// runCommand runs a command with this one's files and takes over its exit code.
func runCommand(arguments []string) error {
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := command.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return exitCode(failed.ExitCode())
	}
	return err
}

// newProcessCommand is for tests of faults: a program of a node that is ended
// comes back by itself, one that is stopped does not.
func newProcessCommand(open opener) *cobra.Command {
	parent := &cobra.Command{Use: "process", Short: "stop and start single programs of a node, such as kube-apiserver"}
	for _, action := range []struct {
		name, short string
		stopped     bool
	}{
		{"stop", "end a program and keep it from running, also after `up`", true},
		{"start", "let a stopped program run again", false},
	} {
		parent.AddCommand(&cobra.Command{
			Use:   action.name + " node program",
			Short: action.short,
			Args:  cobra.ExactArgs(2),
			RunE: func(command *cobra.Command, arguments []string) error {
				c, err := open()
				if err != nil {
					return err
				}
				n, err := c.findNode(arguments[0])
				if err != nil {
					return err
				}
				list, err := readJSON[unitList](n.path("units.json"))
				if err != nil {
					return err
				}
				var names []string
				for i := range list.Units {
					names = append(names, list.Units[i].Name)
					if list.Units[i].Name == arguments[1] {
						list.Units[i].Stopped = action.stopped
						if err := n.putUnits(command.Context(), list); err != nil {
							return err
						}
						return wait(command.Context(), 2*stopGrace, arguments[1]+" to "+action.name, n.running(arguments[1], !action.stopped))
					}
				}
				return fmt.Errorf("node %s has no program %q; it has %s", n.name(), arguments[1], strings.Join(names, ", "))
			},
		})
	}
	parent.AddCommand(&cobra.Command{
		Use:   "log node program",
		Short: "print the path of a program's log",
		Args:  cobra.ExactArgs(2),
		RunE: func(command *cobra.Command, arguments []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			n, err := c.findNode(arguments[0])
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), c.path("log", n.name(), filepath.Base(arguments[1])+".log"))
			}
			return err
		},
	})
	return parent
}
