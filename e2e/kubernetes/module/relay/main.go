// Command relay carries connections into another network namespace: relay DESCRIPTOR ADDRESS. It listens on the socket
// that it inherited as that file descriptor (a socket stays in the namespace in which it was made) and connects to
// ADDRESS in the namespace that it runs in. Nothing is cut for being idle: a watch or a forwarded port may be silent for hours.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// The other side is a bridge on the same machine: what does not answer by then is not there.
const connectTimeout = 5 * time.Second

func main() {
	if len(os.Args) != 3 {
		fail("usage: relay DESCRIPTOR ADDRESS")
	}
	descriptor, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail("%q is no file descriptor", os.Args[1])
	}
	listener, err := net.FileListener(os.NewFile(uintptr(descriptor), "listener"))
	if err != nil {
		fail("file descriptor %d is no listening socket: %v", descriptor, err)
	}
	for {
		near, err := listener.Accept()
		if err != nil {
			// Out of file descriptors, or a peer that left before it was accepted: neither is the end.
			fmt.Fprintf(os.Stderr, "accept: %v\n", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go carry(near.(*net.TCPConn), os.Args[2])
	}
}

// carry connects one client through and ends when both directions have ended.
func carry(near *net.TCPConn, address string) {
	defer near.Close()
	connection, err := net.DialTimeout("tcp", address, connectTimeout)
	if err != nil {
		// The client is to see what it would see without a relay: a reset, no orderly end.
		_ = near.SetLinger(0)
		return
	}
	far := connection.(*net.TCPConn)
	defer far.Close()
	done := make(chan struct{})
	go func() {
		pass(far, near)
		close(done)
	}()
	pass(near, far)
	<-done
}

// pass copies one direction. Its orderly end is passed on, and the other direction lives on; after an error neither can.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = from.SetLinger(0)
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite()
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
