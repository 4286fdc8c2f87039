package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

// The ids of commands, by which they are known if they are refused.
const (
	commitID  = 1
	releaseID = 2
)

// subscription is one stream of a shipper.
type subscription struct {
	*shipper
	stream  v1.Messaging_SubscribeClient
	backoff *service.Backoff
	// It goes on with the stream before.
	goesOn bool
	// It is open: the member may leave.
	opened bool
}

// stream opens a stream, or resumes the one before, and ships what comes until it breaks. Nil: the member has left.
func (s *shipper) stream(ctx context.Context, terminated <-chan struct{}, backoff *service.Backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.messaging.Subscribe(ctx)
	if err != nil {
		return err
	}
	sub := &subscription{shipper: s, stream: stream, backoff: backoff, goesOn: s.token != nil}
	if err := sub.open(); err != nil {
		return err
	}
	responses, ended := receive(ctx, stream)
	for {
		// A member that is not known yet can't leave: what a broken stream left to be committed comes first.
		var leave <-chan struct{}
		if sub.opened {
			leave = terminated
		}
		select {
		case response := <-responses:
			if err := sub.take(ctx, response); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-leave:
			return sub.leave(responses, ended)
		}
	}
}

// receive takes what the stream tells while others work.
func receive(ctx context.Context, stream v1.Messaging_SubscribeClient) (<-chan *v1.SubscribeResponse, <-chan error) {
	responses, ended := make(chan *v1.SubscribeResponse), make(chan error, 1)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- response:
			case <-ctx.Done():
				return
			}
		}
	}()
	return responses, ended
}

// send sends a request. That the stream has ended is no failure here: why is what comes of it next.
func (s *subscription) send(request *v1.SubscribeRequest) error {
	if err := s.stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (s *subscription) open() error {
	return s.send(&v1.SubscribeRequest{Request: &v1.SubscribeRequest_Open{Open: &v1.SubscribeOpen{
		Group:       s.group,
		Topics:      []string{s.orders},
		ClientId:    s.clientID,
		ResumeToken: s.token,
		Positions:   s.offsets(),
		Credit:      &v1.SubscribeCredit{Messages: window},
	}}})
}

// offsets is where this member goes on.
func (s *shipper) offsets() []*v1.TopicOffset {
	var offsets []*v1.TopicOffset
	for partition, offset := range s.positions {
		offsets = append(offsets, &v1.TopicOffset{Topic: s.orders, Partition: partition, Offset: offset})
	}
	return offsets
}

// take does what a response asks for.
func (s *subscription) take(ctx context.Context, response *v1.SubscribeResponse) error {
	defer func() { s.held.Store(int64(len(s.positions))) }()
	switch {
	case response.GetOpened() != nil:
		return s.begin(response.GetOpened())
	case response.GetAssigned() != nil:
		for _, assigned := range response.GetAssigned().GetPartitions() {
			s.positions[assigned.GetPartition()] = assigned.GetOffset()
		}
		s.backoff.Succeeded()
		slog.Info("partitions assigned", "partitions", len(response.GetAssigned().GetPartitions()), "held", len(s.positions))
	case response.GetMessages() != nil:
		return s.deliver(ctx, response.GetMessages())
	case response.GetRevoking() != nil:
		// All that came of them came before this, so it is stored, and said to be processed.
		revoked := response.GetRevoking().GetPartitions()
		s.forget(revoked)
		slog.Info("partitions given back", "partitions", len(revoked), "held", len(s.positions))
		return s.send(&v1.SubscribeRequest{Id: releaseID, Request: &v1.SubscribeRequest_Release{
			Release: &v1.SubscribeRelease{Partitions: revoked},
		}})
	case response.GetLost() != nil:
		lost := response.GetLost()
		s.forget(lost.GetPartitions())
		slog.Warn("partitions lost", "partitions", len(lost.GetPartitions()), "held", len(s.positions),
			"reason", service.FailureIn(lost.GetReason()))
	case response.GetCommitted() != nil:
		for _, partition := range response.GetCommitted().GetPartitions() {
			// It was lost meanwhile: its next owner ships again what was not committed.
			if failed := partition.GetError(); failed != nil {
				slog.Warn("not committed", "partition", partition.GetPartition(), "error", service.FailureIn(failed))
			}
		}
	case response.GetError() != nil:
		failed := response.GetError()
		failure := service.FailureIn(failed.GetError())
		switch {
		case failed.GetId() == releaseID:
			// What had nothing left to process was given back without a word, and is this member's again already.
			slog.Info("not given back", "error", failure)
			return nil
		case failed.GetId() == commitID && !canResume(failure):
			// The member is still there, so the stream goes on. Its next commit includes these; without one its next owner
			// ships them again.
			slog.Warn("not committed", "error", failure)
			return nil
		case failed.GetPartition() == nil:
			return failure
		}
		// It can't be read: its log is damaged, or ends before our position. Somebody has to look; the others go on.
		slog.Error("a partition stands still", "partition", failed.GetPartition().GetPartition(), "error", failure)
	}
	return nil
}

// begin notes as which member the stream is open. What was stored while the stream before broke may not be committed, and is
// not sent again: so it is committed here.
func (s *subscription) begin(opened *v1.SubscribeOpened) error {
	first := !s.opened
	s.token, s.opened = opened.GetResumeToken(), true
	// It is not the first one if the member's session had ended, and the broker has joined anew.
	if !first || !s.goesOn {
		return nil
	}
	s.resumed.Add(1)
	slog.Info("stream resumed", "member", opened.GetMemberId(), "partitions", len(s.positions))
	if len(s.positions) == 0 {
		return nil
	}
	return s.send(&v1.SubscribeRequest{Id: commitID, Request: &v1.SubscribeRequest_Commit{
		Commit: &v1.SubscribeCommit{Offsets: s.offsets()},
	}})
}

// deliver ships some orders, and then says that they are processed and that as many more may come.
func (s *subscription) deliver(ctx context.Context, delivery *v1.SubscribeMessages) error {
	orders := delivery.GetMessages()
	s.received.Add(uint64(len(orders)))
	if err := s.publish(ctx, orders); err != nil {
		return err
	}
	last := orders[len(orders)-1]
	s.positions[last.GetPartition()] = last.GetOffset() + 1
	s.backoff.Succeeded()
	return s.send(&v1.SubscribeRequest{Request: &v1.SubscribeRequest_Credit{Credit: &v1.SubscribeCredit{
		Messages:         uint32(len(orders)),
		ProcessedThrough: delivery.GetDeliveryId(),
	}}})
}

// forget takes partitions off that are not this member's any more.
func (s *subscription) forget(partitions []*v1.TopicPartition) {
	for _, partition := range partitions {
		delete(s.positions, partition.GetPartition())
	}
}

// leave frees the partitions at once, for the other members. The broker commits what is processed, and ends the stream; what
// still comes is not shipped here.
func (s *subscription) leave(responses <-chan *v1.SubscribeResponse, ended <-chan error) error {
	if err := s.send(&v1.SubscribeRequest{Request: &v1.SubscribeRequest_Leave{Leave: &v1.SubscribeLeave{}}}); err != nil {
		return err
	}
	for {
		select {
		case <-responses:
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
