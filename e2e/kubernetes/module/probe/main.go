// Command probe is what the tests of the cluster itself run in their pods: a server, and small commands for
// `kubectl exec`. It is linked statically and is the only file of its image.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"
)

const usage = "usage: probe serve ADDRESS | write FILE TEXT | read FILE | env NAME | resolve NAME | fetch URL"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 3 && args[0] == "write":
		return write(args[1], args[2])
	case len(args) == 2 && args[0] == "read":
		text, err := os.ReadFile(args[1])
		fmt.Print(string(text))
		return err
	case len(args) == 2 && args[0] == "env":
		fmt.Print(os.Getenv(args[1]))
		return nil
	case len(args) == 2 && args[0] == "resolve":
		found, err := net.DefaultResolver.LookupHost(ctx, args[1])
		sort.Strings(found)
		fmt.Print(strings.Join(found, " "))
		return err
	case len(args) == 2 && args[0] == "fetch":
		return fetch(ctx, args[1])
	}
	return fmt.Errorf("%s", usage)
}

// serve answers every request with the pod's name, and leaves soon when it is told to.
func serve(address string) error {
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprint(answer, name)
	})
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(address, nil) }()
	fmt.Println("serving")
	select {
	case <-told:
		return nil
	case err := <-failed:
		return err
	}
}

// write appends a line and forces it to the disk.
func write(name, text string) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, text); err != nil {
		return err
	}
	return file.Sync()
}

func fetch(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
