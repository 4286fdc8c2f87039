// Package event has the event that the services exchange.
package event

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "millrace/examples/services/millrace/v1"
)

// Order is an order that a customer has paid.
type Order struct {
	// The producer's process: it counts anew when it is started anew.
	Writer   string `json:"writer"`
	Customer string `json:"customer"`
	// The how manieth order of the customer at this writer this is, from 1.
	Number      uint64    `json:"number"`
	AmountCents int64     `json:"amountCents"`
	Time        time.Time `json:"time"`
}

// Message is the order as it is stored. The customer is the key: orders of one customer are in one partition, and so in
// their order.
func (o Order) Message() *v1.Message {
	value, err := json.Marshal(o)
	if err != nil {
		panic(err) // It has no field that could fail.
	}
	return &v1.Message{Key: []byte(o.Customer), Value: value, Timestamp: timestamppb.New(o.Time)}
}

// Parse reads a message that is stored.
func Parse(message *v1.Message) (Order, error) {
	var order Order
	err := json.Unmarshal(message.GetValue(), &order)
	return order, err
}
