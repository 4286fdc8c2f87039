package service

import (
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServeHTTP serves the pages beside /livez on HTTP_ADDRESS (:8080) while the process lives.
func ServeHTTP(pages map[string]http.HandlerFunc) error {
	routes := http.NewServeMux()
	// That the process lives, no more: Kubernetes restarts who fails this, which mends no broker and no network.
	routes.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	for path, page := range pages {
		routes.HandleFunc("GET "+path, page)
	}
	listener, err := net.Listen("tcp", Setting("HTTP_ADDRESS", ":8080"))
	if err != nil {
		return err
	}
	server := http.Server{Handler: routes, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { slog.Error("HTTP ended", "error", server.Serve(listener)) }()
	return nil
}
