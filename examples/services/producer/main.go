// Command producer is a payment service. It takes an order every 100 ms and publishes it to Millrace, each exactly once and
// in the order of its customer, whatever becomes of brokers and connections meanwhile.
//
// How: orders wait in an outbox; the oldest ones are sent as one request of a publish stream, and stay at hand until they
// are answered. If anything goes wrong, the stream is resumed by its token and the same request sent again with the same
// id: if it was stored the first time, it is not stored again.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

const (
	orderEvery = 100 * time.Millisecond
	customers  = 10
	// Orders that may wait while nothing can be published: 15 minutes of them. Then none are taken any more; a real service
	// would refuse them.
	outboxSize = 10_000
	// Orders in one request. After an outage all that waited goes out within a few round trips.
	batchSize = 500
	// A request without an answer is given up and sent again on a resumed stream.
	answerWithin = 15 * time.Second
	// After SIGTERM: less than the pod's terminationGracePeriodSeconds.
	drainWithin = 20 * time.Second
)

func main() { service.Main(run) }

func run(bootstrap string, messaging v1.MessagingClient) error {
	publisher := &publisher{
		messaging: messaging,
		topic:     service.Setting("MILLRACE_TOPIC", "orders"),
		outbox:    make(chan event.Order, outboxSize),
	}
	if err := service.ServeHTTP(map[string]http.HandlerFunc{"/metrics": publisher.metrics}); err != nil {
		return err
	}

	// On SIGTERM no more orders are taken, and those that are there still go out.
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	draining, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	context.AfterFunc(terminated, func() { time.AfterFunc(drainWithin, giveUp) })
	go publisher.takeOrders(terminated)

	slog.Info("started", "bootstrap", bootstrap, "topic", publisher.topic)
	err := publisher.publish(draining)
	made, stored := publisher.made.Load(), publisher.stored.Load()
	slog.Info("stopped", "made", made, "stored", stored, "resumed", publisher.resumed.Load())
	if err != nil {
		return fmt.Errorf("%d orders are not known to be stored: %w", made-stored, err)
	}
	return nil
}

// publisher brings orders from the outbox to the topic.
//
// What it knows is in memory, and gone if the process is killed. A service that must survive that as well keeps the outbox
// in its database, with the token and the id of the request that each order is sent in.
type publisher struct {
	messaging v1.MessagingClient
	topic     string
	outbox    chan event.Order

	// What a broken stream is resumed with; nil before the first one. Good for a day after the last request.
	token []byte
	// The request that is sent and not answered; nil if all are answered. Only one at a time: Millrace would take more, but
	// those behind a refused one would be stored before it, and a customer's orders change places.
	sent   *v1.PublishStreamRequest
	lastID uint64

	made, stored, resumed atomic.Uint64
}

// takeOrders is where a real service would answer its customers.
func (p *publisher) takeOrders(ctx context.Context) {
	defer close(p.outbox)
	// Consumers tell by the writer and the number whether they have seen all of a customer's orders.
	writer := rand.Text()[:8]
	numbers := [customers]uint64{}
	ticks := time.NewTicker(orderEvery)
	defer ticks.Stop()
	for {
		select {
		case now := <-ticks.C:
			customer := mathrand.IntN(customers)
			numbers[customer]++
			order := event.Order{
				Writer:      writer,
				Customer:    fmt.Sprintf("customer-%d", customer),
				Number:      numbers[customer],
				AmountCents: 100 + mathrand.Int64N(10_000),
				Time:        now,
			}
			select {
			case p.outbox <- order:
				p.made.Add(1)
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// publish goes on, over as many streams as it takes, until the outbox is closed and all of it stored, or ctx ends.
func (p *publisher) publish(ctx context.Context) error {
	var backoff service.Backoff
	for {
		err := p.stream(ctx, &backoff)
		if err == nil || ctx.Err() != nil {
			return err
		}
		failure := service.FailureOf(err)
		if failure.IsOurFault() {
			return failure
		}
		// Also a topic that does not exist: somebody may be making it.
		slog.Warn("stream broke", "error", failure, "outcome", failure.Metadata["outcome"], "waiting", len(p.outbox))
		backoff.Wait(ctx, failure)
	}
}

// stream opens a stream, or resumes the one before, and publishes on it until it breaks. Then nothing more is sent on it: the
// next one has its token. Nil: the outbox is closed and all of it stored.
func (p *publisher) stream(ctx context.Context, backoff *service.Backoff) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := p.messaging.PublishStream(ctx)
	if err != nil {
		return err
	}
	// ask sends one request and waits for its answer, though not for ever.
	ask := func(request *v1.PublishStreamRequest) (*v1.PublishStreamResponse, error) {
		late := fmt.Errorf("no answer within %s", answerWithin)
		watchdog := time.AfterFunc(answerWithin, func() { cancel(late) })
		defer watchdog.Stop()
		// io.EOF: the stream has ended, and what is received next says why.
		if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		answer, err := stream.Recv()
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		return answer, err
	}

	opened, err := ask(&v1.PublishStreamRequest{ResumeToken: p.token})
	if err != nil {
		return err
	}
	if p.token != nil {
		p.resumed.Add(1)
		slog.Info("stream resumed", "waiting", len(p.outbox))
	}
	p.token = opened.GetOpened().GetResumeToken()

	for {
		if p.sent == nil && !p.take() {
			return stream.CloseSend()
		}
		answer, err := ask(p.sent)
		if err != nil {
			return err
		}
		if failed := answer.GetError(); failed != nil {
			// Stored before, so long ago that its offset is forgotten, is stored.
			if failed.GetReason() != v1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE {
				return service.FailureIn(failed)
			}
		}
		p.stored.Add(uint64(len(p.sent.GetPublish().GetMessages())))
		p.sent = nil
		backoff.Succeeded()
	}
}

// take makes the next request of what waits in the outbox, at least of one order. False: it is closed and empty.
func (p *publisher) take() bool {
	order, open := <-p.outbox
	if !open {
		return false
	}
	messages := []*v1.Message{order.Message()}
	for len(messages) < batchSize && len(p.outbox) > 0 {
		messages = append(messages, (<-p.outbox).Message())
	}
	p.lastID++
	p.sent = &v1.PublishStreamRequest{
		Id: p.lastID,
		// Acks and compression are the defaults: answered when the orders are on the disks of enough brokers.
		Publish: &v1.PublishRequest{Topic: p.topic, Messages: messages},
	}
	return true
}

// metrics answers in Prometheus' text format.
func (p *publisher) metrics(w http.ResponseWriter, _ *http.Request) {
	service.Metric(w, "counter", "orders_made_total", p.made.Load())
	service.Metric(w, "counter", "orders_stored_total", p.stored.Load())
	service.Metric(w, "gauge", "orders_waiting", len(p.outbox))
	service.Metric(w, "counter", "streams_resumed_total", p.resumed.Load())
}
