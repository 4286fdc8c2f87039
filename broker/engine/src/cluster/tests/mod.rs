//! The metadata's rules: commands in, exact records out.

mod election_table;
mod explorer;
mod fencing;
mod isr;
mod model;
mod offline;
mod operations;
mod property;
mod queries;
mod reassignment;
mod registration;
mod scale;
mod shutdown;
mod stored;
mod support;
