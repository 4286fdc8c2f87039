//! One seed from its beginning to its end.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{observer::Violation, settings::Settings, world::World};

/// What a run that kept all rules was like.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Of the whole trace: the same seed and code give the same.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// How often each rare thing was met.
    pub reached: BTreeMap<&'static str, u64>,
    /// How many batches were acknowledged to producers.
    pub stored: u64,
}

/// A run in which something happened that must not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Which rule was broken, or the text of a panic.
    pub violation: Violation,
    /// The last lines of the trace, if the run was to keep them.
    pub trace: Vec<String>,
}

/// Runs a seed. `settings` takes the place of what the seed would draw; `text` keeps the last
/// lines of the trace for a failure.
///
/// # Errors
/// The first rule that was broken.
pub fn run(seed: u64, settings: Option<Settings>, text: bool) -> Result<Summary, Box<Failure>> {
    let mut world = World::new(seed, settings, text);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run_phases()));
    if let Err(panic) = ended {
        let said = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.observer.violation.get_or_insert(Violation {
            rule: "the code does not panic",
            seen: said.unwrap_or_default(),
        });
    }
    match world.observer.violation.take() {
        Some(violation) => Err(Box::new(Failure {
            seed,
            violation,
            trace: world.trace.into_lines(),
        })),
        None => Ok(Summary {
            hash: world.trace.hash(),
            events: world.trace.count(),
            stored: world.lanes.iter().flatten().map(|lane| lane.stored).sum(),
            reached: world.reached,
        }),
    }
}
