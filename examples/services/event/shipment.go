package event

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "millrace/examples/services/millrace/v1"
)

// Shipment is what becomes of an order that is paid.
type Shipment struct {
	// The id of the order. One order may have been told twice: it is one shipment all the same.
	Order    string    `json:"order"`
	Customer string    `json:"customer"`
	Time     time.Time `json:"time"`
}

// ID names the order: no other one has it.
func (o Order) ID() string {
	return fmt.Sprintf("%s/%s/%d", o.Writer, o.Customer, o.Number)
}

// Message is the shipment as it is stored, with the customer as its key as in [Order.Message].
func (s Shipment) Message() *v1.Message {
	value, err := json.Marshal(s)
	if err != nil {
		panic(err) // It has no field that could fail.
	}
	return &v1.Message{Key: []byte(s.Customer), Value: value, Timestamp: timestamppb.New(s.Time)}
}
