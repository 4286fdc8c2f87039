//! Properties of every kind of plan, on random clusters and against exact answers for small ones.

#![allow(clippy::unwrap_used)]

mod add;
mod create;
mod drain;
mod factor;
mod flow;
mod joined;
mod leaders;
mod model;
mod repair;
mod size;
