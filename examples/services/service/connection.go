// Package service has what the services share: a connection to Millrace, what errors mean, how long to wait, and
// the HTTP port that Kubernetes asks.
package service

import (
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Dial prepares a connection to the bootstrap Service of a cluster, HOST:PORT. It connects when the first call needs it, and
// again whenever it broke. One connection is enough: any broker answers any call.
func Dial(bootstrap string) (*grpc.ClientConn, error) {
	return grpc.NewClient(
		// "dns:" asks again for each connection: addresses of pods and Services change.
		"dns:///"+bootstrap,
		// Millrace has no TLS yet: keep it inside a trusted network.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A broker whose node is gone sends nothing, not even an end. Without pings a reader would wait for ever.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		// gRPC's own limit is two minutes between attempts, long after a broker is back.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// An answer may have 17 MiB where messages are large; gRPC refuses more than 4 unless it is told.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(17<<20)),
		// No look-ups of settings that nobody has put into the DNS.
		grpc.WithDisableServiceConfig(),
	)
}

// Setting is an environment variable, or what stands for it if it is not set.
func Setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// Bootstrap is where the cluster is found.
func Bootstrap() (string, error) {
	if address := os.Getenv("MILLRACE_BOOTSTRAP"); address != "" {
		return address, nil
	}
	return "", fmt.Errorf("MILLRACE_BOOTSTRAP is not set: HOST:PORT of a Cluster's bootstrap Service, such as demo-bootstrap:9650")
}
