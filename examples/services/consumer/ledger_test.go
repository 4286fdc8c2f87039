package main

import (
	"path/filepath"
	"testing"

	"millrace/examples/services/event"
	v1 "millrace/examples/services/millrace/v1"
)

func order(number uint64) event.Order {
	return event.Order{Writer: "w", Customer: "c", Number: number, AmountCents: 10}
}

func enter(l *ledger, numbers ...uint64) {
	for _, number := range numbers {
		l.enter(order(number))
	}
}

func newLedger(t *testing.T) *ledger {
	l, err := loadLedger("")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestGapsAndDoublesAreFound(t *testing.T) {
	for _, given := range []struct {
		numbers               []uint64
		orders, gaps, doubles uint64
	}{
		{[]uint64{1, 2, 3}, 3, 0, 0},
		{[]uint64{1, 2, 5}, 3, 2, 0},
		{[]uint64{3, 4}, 2, 2, 0},
		{[]uint64{1, 2, 2, 3}, 3, 0, 1},
		{[]uint64{1, 3, 2}, 2, 1, 1},
	} {
		l := newLedger(t)
		enter(l, given.numbers...)
		if l.Orders != given.orders || l.Gaps != given.gaps || l.Doubles != given.doubles {
			t.Errorf("%v: %+v", given.numbers, l)
		}
	}
}

func TestWhatRetentionDeletedBeforeTheFirstLookIsNoGap(t *testing.T) {
	l := newLedger(t)
	if start := l.start(&v1.PartitionProgress{LogStart: 7}); start != 7 {
		t.Fatal(start)
	}
	enter(l, 5, 6, 8)
	if l.Gaps != 1 {
		t.Errorf("only 7 is missing: %+v", l)
	}
}

func TestARestartGoesOnWhereItWas(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.json")
	l := newLedger(t)
	enter(l, 1, 2)
	l.Positions[4] = 2
	if err := l.save(file); err != nil {
		t.Fatal(err)
	}
	again, err := loadLedger(file)
	if err != nil {
		t.Fatal(err)
	}
	enter(again, 3)
	start := again.start(&v1.PartitionProgress{Partition: 4, HighWatermark: 3})
	if start != 2 || again.Orders != 3 || again.Gaps+again.Doubles != 0 || again.Customers["c"].AmountCents != 30 {
		t.Errorf("from %d: %+v", start, again)
	}
}
