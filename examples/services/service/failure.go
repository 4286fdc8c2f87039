package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "millrace/examples/services/millrace/v1"
)

// Failure is why a call, or one request of a stream, failed. Go by its reason, or by its code where the reason is
// unknown; the message is for people.
type Failure struct {
	Code    codes.Code
	Reason  v1.ErrorReason
	Message string
	// Facts, such as "outcome" of a write: see the comment of each reason in types.proto.
	Metadata map[string]string
	// How long the broker asks to be left alone; 0 if it does not say.
	RetryAfter time.Duration
}

// FailureOf reads a call's error: a gRPC status whose details hold a google.rpc.ErrorInfo and, where waiting helps, a
// google.rpc.RetryInfo. One that comes from the connection has neither. What is a Failure already stays as it is.
func FailureOf(err error) *Failure {
	var known *Failure
	if errors.As(err, &known) {
		return known
	}
	told := status.Convert(err)
	failure := &Failure{Code: told.Code(), Message: told.Message()}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "millrace.dev" {
				failure.Reason = v1.ErrorReason(v1.ErrorReason_value["ERROR_REASON_"+detail.GetReason()])
				failure.Metadata = detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			failure.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return failure
}

// FailureIn reads the error of one request of a stream, which says the same without a status.
func FailureIn(err *v1.Error) *Failure {
	return &Failure{
		Code:       codes.Code(err.GetCode()),
		Reason:     err.GetReason(),
		Message:    err.GetMessage(),
		Metadata:   err.GetMetadata(),
		RetryAfter: err.GetRetryDelay().AsDuration(),
	}
}

func (f *Failure) Error() string {
	if f.Reason == v1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return fmt.Sprintf("%s: %s", f.Code, f.Message)
	}
	return fmt.Sprintf("%s (%s): %s", f.Reason, f.Code, f.Message)
}

// IsOurFault tells whether the same call can never succeed: a fault of this program, not of the moment.
func (f *Failure) IsOurFault() bool {
	return f.Code == codes.InvalidArgument
}

// Backoff waits longer after each failure in a row. Random, so that many clients do not come back at the same moment.
type Backoff struct{ failures int }

const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
)

// Succeeded ends the row of failures.
func (b *Backoff) Succeeded() { b.failures = 0 }

// Wait waits as long as the broker asks for, and at least as the row of failures says; or until ctx ends.
func (b *Backoff) Wait(ctx context.Context, after *Failure) {
	longest := min(firstWait<<min(b.failures, 10), longestWait)
	b.failures++
	wait := max(longest/2+rand.N(longest/2), after.RetryAfter)
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}
