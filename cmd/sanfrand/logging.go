package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// logFlags say what a process logs, and how.
type logFlags struct {
	format string
	level  string
}

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "log-format", "json", `how to log: "json" or "text"`)
	cmd.Flags().StringVar(&f.level, "log-level", "info", `from which level on: "debug", "info", "warn" or "error"`)
}

// logger returns the process's logger, which is slog's default from then on.
func (f *logFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch f.format {
	case "json":
		handler = slog.NewJSONHandler(os.Stderr, options)
	case "text":
		handler = slog.NewTextHandler(os.Stderr, options)
	default:
		return nil, fmt.Errorf(`--log-format: %q is neither "json" nor "text"`, f.format)
	}
	log := slog.New(handler)
	slog.SetDefault(log)
	return log, nil
}
