//! What the executable does beside reconciling: what the chart's hooks run.

pub mod release_finalizers;
pub mod self_test;
