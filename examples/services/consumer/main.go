// Command consumer follows a topic of orders, sums them up for each customer, and reports if one is ever missing or there
// twice. After any break it goes on exactly where it was.
//
// It reads all partitions and keeps its positions itself, in one file with its sums, so that each order is counted once. So
// there may be only one of it; a consumer group (Messaging.Subscribe, see ../shipper) shares partitions among several, and
// keeps positions.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

const (
	reportEvery = 5 * time.Second
	saveEvery   = time.Second
	// Where the partitions stand is asked for anew so often: then it sees partitions that were added, and is not bound to one
	// broker for ever.
	readFor = time.Minute
	// How long a question may take.
	askWithin = 10 * time.Second
)

func main() { service.Main(run) }

func run(bootstrap string, messaging v1.MessagingClient) error {
	file := service.Setting("STATE_FILE", "")
	ledger, err := loadLedger(file)
	if err != nil {
		return err
	}
	consumer := &consumer{
		messaging: messaging,
		topic:     service.Setting("MILLRACE_TOPIC", "orders"),
		ledger:    ledger,
	}
	if err := service.ServeHTTP(map[string]http.HandlerFunc{"/report": consumer.report}); err != nil {
		return err
	}
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	slog.Info("started", "bootstrap", bootstrap, "topic", consumer.topic, "orders", ledger.Orders)

	var sideWork sync.WaitGroup
	sideWork.Go(func() { every(terminated, reportEvery, consumer.log) })
	sideWork.Go(func() { every(terminated, saveEvery, func() { consumer.save(file) }) })
	err = consumer.follow(terminated)
	stop()
	sideWork.Wait()
	consumer.save(file)
	consumer.log()
	return err
}

func every(ctx context.Context, period time.Duration, work func()) {
	ticks := time.NewTicker(period)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			work()
		case <-ctx.Done():
			return
		}
	}
}

type consumer struct {
	messaging v1.MessagingClient
	topic     string

	lock sync.Mutex
	// Guarded by lock.
	ledger *ledger
}

// follow reads, over as many calls as it takes, until ctx ends.
func (c *consumer) follow(ctx context.Context) error {
	var backoff service.Backoff
	for {
		err := c.read(ctx, &backoff)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			continue
		}
		failure := service.FailureOf(err)
		if failure.IsOurFault() {
			return failure
		}
		// OFFSET_OUT_OF_RANGE comes here too, if the log ends before our position: an acknowledged order was lost, which only
		// an unclean election can do. Nothing is skipped on our own account; somebody has to look.
		slog.Warn("reading broke", "error", failure)
		backoff.Wait(ctx, failure)
	}
}

// read reads from where the ledger is until the call breaks, or for readFor, which is no error.
func (c *consumer) read(ctx context.Context, backoff *service.Backoff) error {
	starts, err := c.starts(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readFor)
	defer cancel()
	stream, err := c.messaging.Read(ctx, &v1.ReadRequest{Topic: c.topic, Partitions: starts, Follow: true})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil && service.FailureOf(err).Code == codes.DeadlineExceeded {
				return nil
			}
			return err
		}
		backoff.Succeeded()
		c.take(response)
	}
}

// starts says for each partition that the topic has where to go on.
func (c *consumer) starts(ctx context.Context) ([]*v1.PartitionStart, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	// A read from the end that does not follow gives no messages, but tells where each partition stands.
	stream, err := c.messaging.Read(ctx, &v1.ReadRequest{
		Topic: c.topic,
		Start: &v1.Start{At: &v1.Start_Edge{Edge: v1.Edge_EDGE_END}},
	})
	if err != nil {
		return nil, err
	}
	var starts []*v1.PartitionStart
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return starts, nil
		}
		if err != nil {
			return nil, err
		}
		c.lock.Lock()
		for _, partition := range response.GetProgress() {
			offset := c.ledger.start(partition)
			starts = append(starts, &v1.PartitionStart{
				Partition: partition.GetPartition(),
				Start:     &v1.Start{At: &v1.Start_Offset{Offset: offset}},
			})
		}
		c.lock.Unlock()
	}
}

// take enters what was read into the ledger.
func (c *consumer) take(response *v1.ReadResponse) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, received := range response.GetMessages() {
		order, err := event.Parse(received.GetMessage())
		if err != nil {
			// One bad message must not stop all others. A real service would put it aside.
			slog.Warn("no order", "partition", received.GetPartition(), "offset", received.GetOffset(), "error", err)
			continue
		}
		c.ledger.enter(order)
	}
	for _, partition := range response.GetProgress() {
		c.ledger.Positions[partition.GetPartition()] = partition.GetNextOffset()
	}
}

func (c *consumer) save(file string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if err := c.ledger.save(file); err != nil {
		slog.Error("the state is not saved", "error", err)
	}
}

// log prints how far it is: all orders, the totals of each customer, and what was wrong.
func (c *consumer) log() {
	c.lock.Lock()
	defer c.lock.Unlock()
	slog.Info("report", "orders", c.ledger.Orders, "gaps", c.ledger.Gaps, "doubles", c.ledger.Doubles, "customers", c.ledger.Customers)
}

// report answers with the whole ledger.
func (c *consumer) report(w http.ResponseWriter, _ *http.Request) {
	c.lock.Lock()
	defer c.lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c.ledger)
}
