package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

// broker is what Millrace promises of a publish stream, with faults: each request fails in one way after another before it
// is answered.
type broker struct {
	v1.UnimplementedMessagingServer
	lock    sync.Mutex
	streams int
	faults  int
	lastID  map[string]uint64
	stored  []string
}

func (b *broker) PublishStream(stream grpc.BidiStreamingServer[v1.PublishStreamRequest, v1.PublishStreamResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	b.lock.Lock()
	defer b.lock.Unlock()
	token := string(first.GetResumeToken())
	if token == "" {
		b.streams++
		token = fmt.Sprint("stream ", b.streams)
	}
	opened := &v1.PublishStreamOpened{ResumeToken: []byte(token)}
	if err := stream.Send(&v1.PublishStreamResponse{Result: &v1.PublishStreamResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		b.faults++
		if b.faults%4 == 1 {
			return status.Error(codes.Unavailable, "broken before it was stored")
		}
		answer := &v1.PublishStreamResponse{Id: request.GetId()}
		if b.faults%4 == 2 {
			answer.Result = &v1.PublishStreamResponse_Error{Error: &v1.Error{
				Code:     int32(codes.Unavailable),
				Reason:   v1.ErrorReason_ERROR_REASON_NOT_ENOUGH_REPLICAS,
				Metadata: map[string]string{"outcome": "not_written"},
			}}
		} else {
			if request.GetId() > b.lastID[token] {
				b.lastID[token] = request.GetId()
				for _, message := range request.GetPublish().GetMessages() {
					b.stored = append(b.stored, string(message.GetValue()))
				}
			}
			if b.faults%4 == 3 {
				return status.Error(codes.Unavailable, "broken before it was answered")
			}
			answer.Result = &v1.PublishStreamResponse_Published{Published: &v1.PublishResponse{}}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// serve starts a broker and a publisher with some orders in its outbox, which is closed.
func serve(t *testing.T, broker v1.MessagingServer, orders int) (*publisher, []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	v1.RegisterMessagingServer(server, broker)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	connection, err := service.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	p := &publisher{messaging: v1.NewMessagingClient(connection), topic: "orders", outbox: make(chan event.Order, orders)}
	var values []string
	for number := range orders {
		order := event.Order{Writer: "w", Customer: "c", Number: uint64(number + 1), Time: time.Unix(0, 0)}
		p.outbox <- order
		values = append(values, string(order.Message().GetValue()))
	}
	close(p.outbox)
	return p, values
}

func TestEachOrderIsStoredOnceAndInOrder(t *testing.T) {
	broker := &broker{lastID: map[string]uint64{}}
	p, values := serve(t, broker, 3*batchSize)
	if err := p.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(broker.stored, values) || p.stored.Load() != uint64(len(values)) {
		t.Errorf("stored %d, counted %d, of %d", len(broker.stored), p.stored.Load(), len(values))
	}
	if broker.streams != 1 || p.resumed.Load() != 9 {
		t.Errorf("%d streams, resumed %d times", broker.streams, p.resumed.Load())
	}
}

// refusing refuses every stream.
type refusing struct {
	v1.UnimplementedMessagingServer
	code codes.Code
}

func (r *refusing) PublishStream(grpc.BidiStreamingServer[v1.PublishStreamRequest, v1.PublishStreamResponse]) error {
	return status.Error(r.code, "no")
}

func TestOnlyWhatCanNeverSucceedEndsIt(t *testing.T) {
	p, _ := serve(t, &refusing{code: codes.InvalidArgument}, 1)
	var failure *service.Failure
	if err := p.publish(t.Context()); !errors.As(err, &failure) || failure.Code != codes.InvalidArgument {
		t.Error(err)
	}
	p, _ = serve(t, &refusing{code: codes.NotFound}, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.publish(ctx); ctx.Err() == nil {
		t.Error("it gave up:", err)
	}
}
