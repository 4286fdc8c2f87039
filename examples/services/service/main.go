package service

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	v1 "millrace/examples/services/millrace/v1"
)

// Main is what a service's main does: it logs JSON, one line for each event, and connects to Millrace; run does the rest, and
// what it fails with is the last line.
func Main(run func(bootstrap string, messaging v1.MessagingClient) error) {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	if err := connected(run); err != nil {
		slog.Error("failed", "error", err)
		os.Exit(1)
	}
}

func connected(run func(string, v1.MessagingClient) error) error {
	bootstrap, err := Bootstrap()
	if err != nil {
		return err
	}
	connection, err := Dial(bootstrap)
	if err != nil {
		return err
	}
	defer connection.Close()
	return run(bootstrap, v1.NewMessagingClient(connection))
}

// Metric writes one number in Prometheus' text format. Its kind is counter or gauge.
func Metric(w io.Writer, kind, name string, value any) {
	fmt.Fprintf(w, "# TYPE %[2]s %[1]s\n%[2]s %[3]d\n", kind, name, value)
}
