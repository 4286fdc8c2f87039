package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

// A test that hangs ends after this long; none takes a second.
const patience = time.Minute

// broker answers each stream as the next script says, and notes in which order things happened.
type broker struct {
	v1.UnimplementedMessagingServer
	t       *testing.T
	scripts []func(*subscriber) error
	// What happens to the publishes, in turn; those behind the last one succeed.
	publishes []func() (isStored bool, err error)
	// Ends the shipper as SIGTERM does.
	terminate func()

	lock     sync.Mutex
	streams  int
	calls    int
	happened []string
}

func (b *broker) note(format string, values ...any) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.happened = append(b.happened, fmt.Sprintf(format, values...))
}

func (b *broker) Publish(_ context.Context, request *v1.PublishRequest) (*v1.PublishResponse, error) {
	b.lock.Lock()
	b.calls++
	call := b.calls
	b.lock.Unlock()
	isStored, err := true, error(nil)
	if call <= len(b.publishes) {
		isStored, err = b.publishes[call-1]()
	}
	if isStored {
		var ids []string
		for _, message := range request.GetMessages() {
			var shipment event.Shipment
			if err := json.Unmarshal(message.GetValue(), &shipment); err != nil || string(message.GetKey()) != "c" {
				b.t.Errorf("no shipment: %v, %v", message, err)
			}
			ids = append(ids, shipment.Order)
		}
		b.note("stored in %s: %s", request.GetTopic(), strings.Join(ids, " "))
	}
	return &v1.PublishResponse{}, err
}

func (b *broker) Subscribe(stream grpc.BidiStreamingServer[v1.SubscribeRequest, v1.SubscribeResponse]) error {
	b.lock.Lock()
	b.streams++
	number := b.streams
	b.lock.Unlock()
	if number > len(b.scripts) {
		return status.Error(codes.InvalidArgument, "one stream more than expected")
	}
	subscriber := &subscriber{broker: b, stream: stream}
	subscriber.next()
	return b.scripts[number-1](subscriber)
}

// subscriber is one stream.
type subscriber struct {
	*broker
	stream    grpc.BidiStreamingServer[v1.SubscribeRequest, v1.SubscribeResponse]
	delivered uint64
}

// next notes the next request, if there is one.
func (s *subscriber) next() {
	request, err := s.stream.Recv()
	if err != nil {
		s.note("ended")
		return
	}
	at := func(offsets []*v1.TopicOffset) string {
		var told []string
		for _, offset := range offsets {
			told = append(told, fmt.Sprintf(" %s-%d@%d", offset.GetTopic(), offset.GetPartition(), offset.GetOffset()))
		}
		slices.Sort(told)
		return strings.Join(told, "")
	}
	switch {
	case request.GetOpen() != nil:
		open := request.GetOpen()
		s.note("open %s %s %q%s", open.GetGroup(), open.GetTopics(), open.GetResumeToken(), at(open.GetPositions()))
	case request.GetCredit() != nil:
		s.note("credit of %d, processed through %d", request.GetCredit().GetMessages(), request.GetCredit().GetProcessedThrough())
	case request.GetCommit() != nil:
		s.note("commit%s", at(request.GetCommit().GetOffsets()))
	case request.GetRelease() != nil:
		s.note("release %d", request.GetRelease().GetPartitions()[0].GetPartition())
	case request.GetLeave() != nil:
		s.note("leave")
	default:
		s.note("%v", request)
	}
}

func (s *subscriber) send(responses ...*v1.SubscribeResponse) {
	for _, response := range responses {
		// An error: the stream is broken, and what is noted next says so.
		_ = s.stream.Send(response)
	}
}

func opened(token string) *v1.SubscribeResponse {
	return &v1.SubscribeResponse{Response: &v1.SubscribeResponse_Opened{
		Opened: &v1.SubscribeOpened{MemberId: "m", ResumeToken: []byte(token)},
	}}
}

func assigned(offsets ...int64) *v1.SubscribeResponse {
	told := &v1.SubscribeAssigned{}
	for partition, offset := range offsets {
		told.Partitions = append(told.Partitions, &v1.TopicOffset{Topic: "orders", Partition: int32(partition), Offset: offset})
	}
	return &v1.SubscribeResponse{Response: &v1.SubscribeResponse_Assigned{Assigned: told}}
}

func named(partition int32) []*v1.TopicPartition {
	return []*v1.TopicPartition{{Topic: "orders", Partition: partition}}
}

func revoking(partition int32) *v1.SubscribeResponse {
	return &v1.SubscribeResponse{Response: &v1.SubscribeResponse_Revoking{
		Revoking: &v1.SubscribeRevoking{Partitions: named(partition)},
	}}
}

func lost(partition int32) *v1.SubscribeResponse {
	return &v1.SubscribeResponse{Response: &v1.SubscribeResponse_Lost{Lost: &v1.SubscribeLost{
		Partitions: named(partition),
		Reason:     &v1.Error{Reason: v1.ErrorReason_ERROR_REASON_PARTITION_NOT_ASSIGNED},
	}}}
}

// failed is what a stream says of a command, or of a partition.
func failed(id uint64, code codes.Code, reason v1.ErrorReason, partition ...*v1.TopicPartition) *v1.SubscribeResponse {
	told := &v1.SubscribeError{Id: id, Error: &v1.Error{Code: int32(code), Reason: reason}}
	if len(partition) > 0 {
		told.Partition = partition[0]
	}
	return &v1.SubscribeResponse{Response: &v1.SubscribeResponse_Error{Error: told}}
}

// deliver sends orders of a partition, each with its offset as its number.
func (s *subscriber) deliver(partition int32, offsets ...int64) {
	s.delivered++
	delivery := &v1.SubscribeMessages{DeliveryId: s.delivered}
	for _, offset := range offsets {
		order := event.Order{Writer: "w", Customer: "c", Number: uint64(offset), Time: time.Unix(0, 0)}
		received := &v1.ReceivedMessage{Topic: "orders", Partition: partition, Offset: offset, Message: order.Message()}
		delivery.Messages = append(delivery.Messages, received)
	}
	s.send(&v1.SubscribeResponse{Response: &v1.SubscribeResponse_Messages{Messages: delivery}})
}

// How streams break: with the connection, or with their broker.
var broken, stopping = status.Error(codes.Unavailable, "broken"), refused(codes.Unavailable, "BROKER_NOT_READY")

// end is how a stream ends where the shipper is told to end: it leaves.
func (s *subscriber) end() error {
	s.terminate()
	s.next()
	return nil
}

// refused is an error as a broker says it.
func refused(code codes.Code, reason string) error {
	told, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Domain: "millrace.dev", Reason: reason})
	if err != nil {
		panic(err)
	}
	return told.Err()
}

// ship runs a shipper on such a broker until it ends.
func ship(t *testing.T, b *broker, scripts ...func(*subscriber) error) (*shipper, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	terminated, terminate := context.WithCancel(t.Context())
	defer terminate()
	b.t, b.scripts, b.terminate = t, scripts, terminate
	server := grpc.NewServer()
	v1.RegisterMessagingServer(server, b)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	connection, err := service.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := &shipper{
		messaging: v1.NewMessagingClient(connection),
		group:     "shipping",
		orders:    "orders",
		shipments: "shipments",
		positions: map[partition]int64{},
	}
	return s, s.ship(ctx, terminated.Done())
}

// check compares what happened.
func (b *broker) check(expected ...string) {
	b.t.Helper()
	if !slices.Equal(b.happened, expected) {
		b.t.Errorf("\n%s\ninstead of\n%s", strings.Join(b.happened, "\n"), strings.Join(expected, "\n"))
	}
}
