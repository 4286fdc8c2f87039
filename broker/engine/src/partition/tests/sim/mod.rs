//! Three replicas, a toy controller and a network that drops, repeats, delays and reorders: after
//! every step, nothing that was committed may be missing where it must be.
//!
//! `MILLRACE_PARTITION_SEEDS=n` runs more seeds, `MILLRACE_PARTITION_SEED=n` just that one,
//! `MILLRACE_PARTITION_TRACE=1` prints each event with its effects.

mod basics;
mod broker;
mod checks;
mod controller;
mod explorer;
mod runs;
mod world;
