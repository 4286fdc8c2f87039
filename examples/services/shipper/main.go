// Command shipper is a shipping service: it publishes a shipment for each order, at least once, whatever becomes of brokers,
// connections and of itself. Run as many as you like: as members of one consumer group they share the orders' partitions.
//
// How: each has one stream of Messaging.Subscribe, which is its membership. An order is said to be processed when its
// shipment is stored, and not before; what was not said to be comes again, here or at another member.
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

const (
	// Orders that may be on their way to this member or in its hands.
	window = 1_000
	// A publish without an answer is given up and tried again.
	answerWithin = 15 * time.Second
	// After SIGTERM: less than the pod's terminationGracePeriodSeconds.
	leaveWithin = 20 * time.Second
)

func main() { service.Main(run) }

func run(bootstrap string, messaging v1.MessagingClient) error {
	hostname, _ := os.Hostname()
	shipper := &shipper{
		messaging: messaging,
		clientID:  hostname,
		group:     service.Setting("MILLRACE_GROUP", "shipping"),
		orders:    service.Setting("MILLRACE_TOPIC", "orders"),
		shipments: service.Setting("SHIPMENTS_TOPIC", "shipments"),
		positions: map[partition]int64{},
	}
	if err := service.ServeHTTP(map[string]http.HandlerFunc{"/metrics": shipper.metrics}); err != nil {
		return err
	}
	// On SIGTERM what is in hand is still shipped.
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	leaving, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	context.AfterFunc(terminated, func() { time.AfterFunc(leaveWithin, giveUp) })

	slog.Info("started", "bootstrap", bootstrap, "topic", shipper.orders, "group", shipper.group)
	err := shipper.ship(leaving, terminated.Done())
	received, stored := shipper.received.Load(), shipper.stored.Load()
	slog.Info("stopped", "received", received, "stored", stored, "resumed", shipper.resumed.Load())
	return err
}

// partition is one of the topic of orders.
type partition = int32

// shipper is one member of the group. It does one thing after another: what a delivery holds is stored before the next thing
// that the stream tells is looked at.
type shipper struct {
	messaging         v1.MessagingClient
	clientID, group   string
	orders, shipments string

	// What a broken stream is resumed with; nil while there is nothing to resume.
	token []byte
	// The partitions that this member has, each with the offset behind the last order whose shipment is stored.
	positions map[partition]int64

	received, stored, resumed atomic.Uint64
	held                      atomic.Int64
}

// ship goes on, over as many streams as it takes, until this member has left, which it does once terminated is closed; or
// until ctx ends.
func (s *shipper) ship(ctx context.Context, terminated <-chan struct{}) error {
	var backoff service.Backoff
	for {
		if s.token == nil && isClosed(terminated) {
			return nil // It is no member.
		}
		err := s.stream(ctx, terminated, &backoff)
		if err == nil || ctx.Err() != nil {
			return err
		}
		failure := service.FailureOf(err)
		slog.Warn("stream broke", "error", failure, "partitions", len(s.positions))
		if !canResume(failure) {
			// The member is gone, and what it had is others': they go on where it had committed. Open as another one.
			s.token = nil
			clear(s.positions)
			s.held.Store(0)
		}
		if failure.IsOurFault() && failure.Reason != v1.ErrorReason_ERROR_REASON_INVALID_RESUME_TOKEN {
			return failure
		}
		backoff.Wait(ctx, failure)
	}
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

// canResume tells whether the member is still there when its stream ended with this: what comes from the connection has no
// reason.
func canResume(failure *service.Failure) bool {
	return failure.Reason == v1.ErrorReason_ERROR_REASON_UNSPECIFIED || failure.Code == codes.Unavailable
}

// publish stores the shipments of orders, over as many calls as it takes, or until ctx ends. A call whose outcome is not known
// is repeated, so a shipment may be there twice; by the order's id it is known to be the same.
func (s *shipper) publish(ctx context.Context, orders []*v1.ReceivedMessage) error {
	var shipments []*v1.Message
	for _, received := range orders {
		order, err := event.Parse(received.GetMessage())
		if err != nil {
			// One bad message must not stop all others. A real service would put it aside.
			slog.Warn("no order", "partition", received.GetPartition(), "offset", received.GetOffset(), "error", err)
			continue
		}
		shipment := event.Shipment{Order: order.ID(), Customer: order.Customer, Time: time.Now()}
		shipments = append(shipments, shipment.Message())
	}
	var backoff service.Backoff
	for len(shipments) > 0 {
		call, cancel := context.WithTimeout(ctx, answerWithin)
		_, err := s.messaging.Publish(call, &v1.PublishRequest{Topic: s.shipments, Messages: shipments})
		cancel()
		if err == nil {
			break
		}
		failure := service.FailureOf(err)
		if failure.IsOurFault() || ctx.Err() != nil {
			return failure
		}
		slog.Warn("not shipped yet", "error", failure, "outcome", failure.Metadata["outcome"], "orders", len(shipments))
		backoff.Wait(ctx, failure)
	}
	s.stored.Add(uint64(len(shipments)))
	return nil
}

// metrics answers in Prometheus' text format.
func (s *shipper) metrics(w http.ResponseWriter, _ *http.Request) {
	service.Metric(w, "counter", "orders_received_total", s.received.Load())
	service.Metric(w, "counter", "shipments_stored_total", s.stored.Load())
	service.Metric(w, "counter", "streams_resumed_total", s.resumed.Load())
	service.Metric(w, "gauge", "partitions_held", s.held.Load())
}
