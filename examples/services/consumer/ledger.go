package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
)

// ledger is all that the consumer knows. Positions and sums are saved together, in one file: so after a restart no order
// is counted twice or left out. Who keeps sums in a database does the same in one transaction.
type ledger struct {
	// The offset from which each partition is read on.
	Positions map[int32]int64 `json:"positions"`
	// By customer.
	Customers map[string]*total `json:"customers"`
	// The last number of each customer at each writer.
	Last map[string]map[string]uint64 `json:"last"`
	// Older orders were deleted by retention before the first look: customers may begin with any number.
	Partial bool `json:"partial"`

	Orders uint64 `json:"orders"`
	// Orders that never came, and ones that came again.
	Gaps    uint64 `json:"gaps"`
	Doubles uint64 `json:"doubles"`
}

type total struct {
	Orders      uint64 `json:"orders"`
	AmountCents int64  `json:"amountCents"`
}

// start is where a partition is read from: where we were, or its beginning if it is new to us.
func (l *ledger) start(partition *v1.PartitionProgress) int64 {
	logStart := partition.GetLogStart()
	position, known := l.Positions[partition.GetPartition()]
	switch {
	case !known:
		l.Partial = l.Partial || logStart > 0
		return logStart
	case position < logStart:
		// We were away for longer than the topic keeps its messages. The gap is found by the numbers.
		slog.Error("orders were deleted unread", "partition", partition.GetPartition(), "from", position, "to", logStart)
		return logStart
	default:
		return position
	}
}

// enter counts an order in.
func (l *ledger) enter(order event.Order) {
	numbers := l.Last[order.Writer]
	if numbers == nil {
		numbers = map[string]uint64{}
		l.Last[order.Writer] = numbers
	}
	last, known := numbers[order.Customer]
	if order.Number <= last {
		l.Doubles++
		slog.Error("an order came twice", "order", order, "last", last)
		return
	}
	if missing := order.Number - last - 1; missing > 0 && (known || !l.Partial) {
		l.Gaps += missing
		slog.Error("orders are missing", "order", order, "last", last)
	}
	numbers[order.Customer] = order.Number

	sum := l.Customers[order.Customer]
	if sum == nil {
		sum = &total{}
		l.Customers[order.Customer] = sum
	}
	sum.Orders++
	sum.AmountCents += order.AmountCents
	l.Orders++
}

// loadLedger reads what an earlier process saved; nothing, if it is not to be kept or there is none.
func loadLedger(file string) (*ledger, error) {
	l := &ledger{
		Positions: map[int32]int64{},
		Customers: map[string]*total{},
		Last:      map[string]map[string]uint64{},
	}
	if file == "" {
		return l, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	return l, json.Unmarshal(text, l)
}

// save replaces the file as a whole: a process that is killed meanwhile leaves the old one.
func (l *ledger) save(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
