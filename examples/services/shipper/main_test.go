package main

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	v1 "millrace/examples/services/millrace/v1"
	"millrace/examples/services/service"
)

func TestABrokenStreamIsResumedBehindWhatIsStored(t *testing.T) {
	isBroken := make(chan struct{})
	b := &broker{publishes: []func() (bool, error){
		// The first stream is gone by the time that this is stored.
		func() (bool, error) { <-isBroken; return true, nil },
	}}
	s, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(5, 0))
			s.deliver(0, 5, 6, 8)
			context.AfterFunc(s.stream.Context(), func() { close(isBroken) })
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"), assigned(9, 0))
			s.next()
			s.deliver(1, 0)
			s.next()
			return stopping
		},
		func(s *subscriber) error {
			s.send(opened("three"))
			s.next()
			return s.end()
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		"stored in shipments: w/c/5 w/c/6 w/c/8",
		`open shipping [orders] "one" orders-0@9 orders-1@0`,
		"commit orders-0@9 orders-1@0",
		"stored in shipments: w/c/0",
		"credit of 1, processed through 1",
		`open shipping [orders] "two" orders-0@9 orders-1@1`,
		"commit orders-0@9 orders-1@1",
		"leave",
	)
	if s.received.Load() != 4 || s.stored.Load() != 4 || s.resumed.Load() != 2 {
		t.Errorf("received %d, stored %d, resumed %d", s.received.Load(), s.stored.Load(), s.resumed.Load())
	}
}

func TestWhatIsRevokedIsReleasedWhenItIsStored(t *testing.T) {
	refusal := func() (bool, error) { return false, refused(codes.Unavailable, "NOT_ENOUGH_REPLICAS") }
	b := &broker{publishes: []func() (bool, error){refusal, refusal}}
	s, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(0, 0, 0, 0))
			s.deliver(0, 0, 1)
			s.send(revoking(0), lost(2), revoking(3))
			s.next()
			s.next()
			s.next()
			// It was given back before, and is this member's again.
			s.send(assigned(2), failed(releaseID, codes.InvalidArgument, v1.ErrorReason_ERROR_REASON_INVALID_REQUEST))
			s.deliver(0, 2)
			s.next()
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"))
			s.next()
			return s.end()
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		"stored in shipments: w/c/0 w/c/1",
		"credit of 2, processed through 1",
		"release 0",
		"release 3",
		"stored in shipments: w/c/2",
		"credit of 1, processed through 2",
		`open shipping [orders] "one" orders-0@3 orders-1@0`,
		"commit orders-0@3 orders-1@0",
		"leave",
	)
	if s.held.Load() != 2 {
		t.Error(s.held.Load())
	}
}

func TestAnOrderIsProcessedOnlyWhenItIsKnownToBeShipped(t *testing.T) {
	b := &broker{publishes: []func() (bool, error){
		func() (bool, error) { return true, refused(codes.DeadlineExceeded, "TIMED_OUT") },
		func() (bool, error) { return false, refused(codes.NotFound, "UNKNOWN_TOPIC") },
	}}
	_, err := ship(t, b, func(s *subscriber) error {
		s.send(opened("one"), assigned(0))
		s.deliver(0, 0)
		s.next()
		return s.end()
	})
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		"stored in shipments: w/c/0",
		"stored in shipments: w/c/0",
		"credit of 1, processed through 1",
		"leave",
	)
}

func TestItLeavesWhenWhatItHasInHandIsShipped(t *testing.T) {
	b := &broker{}
	b.publishes = []func() (bool, error){func() (bool, error) { b.terminate(); return true, nil }}
	_, err := ship(t, b, func(s *subscriber) error {
		s.send(opened("one"), assigned(0))
		s.deliver(0, 0)
		s.next()
		s.next()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		"stored in shipments: w/c/0",
		"credit of 1, processed through 1",
		"leave",
	)
}

func TestWithoutAStreamItCommitsBeforeItLeaves(t *testing.T) {
	isBroken := make(chan struct{})
	b := &broker{}
	b.publishes = []func() (bool, error){func() (bool, error) { <-isBroken; b.terminate(); return true, nil }}
	_, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(0))
			s.deliver(0, 0)
			context.AfterFunc(s.stream.Context(), func() { close(isBroken) })
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"))
			s.next()
			s.next()
			return nil
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		"stored in shipments: w/c/0",
		`open shipping [orders] "one" orders-0@1`,
		"commit orders-0@1",
		"leave",
	)
}

func TestACommitThatIsRefusedForTheMomentIsTriedAgain(t *testing.T) {
	b := &broker{}
	_, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(4, 0))
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"))
			s.next()
			s.send(failed(commitID, codes.Unavailable, v1.ErrorReason_ERROR_REASON_COORDINATOR_NOT_AVAILABLE))
			<-s.stream.Context().Done()
			return nil
		},
		func(s *subscriber) error {
			s.send(opened("three"))
			s.next()
			// That one can't be read is nothing to the other.
			s.send(failed(0, codes.DataLoss, v1.ErrorReason_ERROR_REASON_DAMAGED_LOG, named(0)...))
			s.deliver(1, 0)
			s.next()
			return s.end()
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		`open shipping [orders] "one" orders-0@4 orders-1@0`,
		"commit orders-0@4 orders-1@0",
		`open shipping [orders] "two" orders-0@4 orders-1@0`,
		"commit orders-0@4 orders-1@0",
		"stored in shipments: w/c/0",
		"credit of 1, processed through 1",
		"leave",
	)
}

func TestACommitThatIsRefusedForAnotherReasonEndsNoMember(t *testing.T) {
	b := &broker{}
	_, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(4))
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"))
			s.next()
			s.send(failed(commitID, codes.ResourceExhausted, v1.ErrorReason_ERROR_REASON_DISK_FULL))
			s.deliver(0, 4)
			s.next()
			return s.end()
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		`open shipping [orders] "one" orders-0@4`,
		"commit orders-0@4",
		"stored in shipments: w/c/4",
		"credit of 1, processed through 1",
		"leave",
	)
}

func TestAMemberThatHadToJoinAnewIsResumedAsThatOne(t *testing.T) {
	b := &broker{}
	s, err := ship(t, b,
		func(s *subscriber) error {
			s.send(opened("one"), assigned(4), lost(0), opened("another"), assigned(6))
			return broken
		},
		func(s *subscriber) error {
			s.send(opened("two"))
			s.next()
			s.send(lost(0), opened("a third"), assigned(6))
			s.deliver(0, 6)
			s.next()
			return s.end()
		},
	)
	if err != nil {
		t.Error(err)
	}
	b.check(
		`open shipping [orders] ""`,
		`open shipping [orders] "another" orders-0@6`,
		"commit orders-0@6",
		"stored in shipments: w/c/6",
		"credit of 1, processed through 1",
		"leave",
	)
	if s.resumed.Load() != 1 {
		t.Error(s.resumed.Load())
	}
}

func TestAMemberThatIsGoneIsFollowedByAnother(t *testing.T) {
	begin := func(s *subscriber) error {
		s.send(opened("one"), assigned(7))
		s.deliver(0, 7)
		s.next()
		return broken
	}
	for name, refusal := range map[string]error{
		"its session has ended": refused(codes.NotFound, "UNKNOWN_MEMBER"),
		"the token is refused":  refused(codes.InvalidArgument, "INVALID_RESUME_TOKEN"),
	} {
		t.Run(name, func(t *testing.T) {
			b := &broker{}
			s, err := ship(t, b, begin,
				func(*subscriber) error { return refusal },
				func(s *subscriber) error {
					s.send(opened("another"))
					return s.end()
				},
			)
			if err != nil {
				t.Error(err)
			}
			b.check(
				`open shipping [orders] ""`,
				"stored in shipments: w/c/7",
				"credit of 1, processed through 1",
				`open shipping [orders] "one" orders-0@8`,
				`open shipping [orders] ""`,
				"leave",
			)
			if s.resumed.Load() != 0 || s.held.Load() != 0 {
				t.Errorf("resumed %d, holds %d", s.resumed.Load(), s.held.Load())
			}
		})
	}
}

func TestOnlyWhatCanNeverSucceedEndsIt(t *testing.T) {
	var failure *service.Failure
	b := &broker{}
	_, err := ship(t, b,
		func(*subscriber) error { return refused(codes.ResourceExhausted, "OVERLOADED") },
		func(*subscriber) error { return refused(codes.InvalidArgument, "INVALID_GROUP_ID") },
	)
	if !errors.As(err, &failure) || failure.Reason != v1.ErrorReason_ERROR_REASON_INVALID_GROUP_ID || b.streams != 2 {
		t.Error(err, b.streams)
	}
	b = &broker{publishes: []func() (bool, error){
		func() (bool, error) { return false, refused(codes.InvalidArgument, "MESSAGE_TOO_LARGE") },
	}}
	_, err = ship(t, b, func(s *subscriber) error {
		s.send(opened("one"), assigned(0))
		s.deliver(0, 0)
		<-s.stream.Context().Done()
		return nil
	})
	if !errors.As(err, &failure) || failure.Reason != v1.ErrorReason_ERROR_REASON_MESSAGE_TOO_LARGE {
		t.Error(err)
	}
	b.check(`open shipping [orders] ""`)
}
