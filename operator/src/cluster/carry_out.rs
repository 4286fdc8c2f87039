//! Carrying out steps in their order: which of them are done where others were not.

use super::{
    budget,
    decide::{Step, takes_a_pod},
    seen::Seen,
};
use crate::render::Kind;

/// Who carries out one step.
pub trait Doer {
    /// What the steps were decided by.
    fn seen(&self) -> &Seen;
    /// What came of the steps so far.
    fn progress(&self) -> Progress;
    /// Carries out one step. What is refused, and will be when it is repeated, is no error.
    async fn step(&mut self, step: &Step) -> anyhow::Result<()>;
}

/// What came of the steps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A pod was taken away by way of the StatefulSet.
    pub shrunk: bool,
    /// An object had changed since it was seen.
    pub outran: bool,
    /// Something was refused.
    pub refused: bool,
}

/// Carries out all steps. One that fails stops no other, as what mends a broker must not wait for a vote that the
/// broker cannot get; but the record comes before all that goes by it, and an API server that does not answer is asked
/// no more. What was opened for a restart that is not come to is shut.
///
/// # Errors
/// The first that may well succeed the next time.
pub async fn carry_out(doer: &mut impl Doer, steps: &[Step]) -> anyhow::Result<()> {
    let mut result = Ok(());
    let (mut left, mut has_ended) = (Vec::new(), false);
    for step in steps {
        // One act that takes something away in each pass.
        let is_second = doer.progress().shrunk && takes_a_pod(step);
        if has_ended || is_second {
            left.push(step);
            continue;
        }
        let done = doer.step(step).await;
        let progress = doer.progress();
        // The settings and the record come before all that goes by them.
        has_ended = progress.outran || (progress.refused && is_config_map(step));
        has_ended |= done.as_ref().is_err_and(|error| is_vain(step, error));
        result = result.and(done);
    }
    if let Some(budget) = budget::left_open(doer.seen(), &left) {
        let shut = doer.step(&Step::Apply(budget.clone())).await;
        result = result.and(shut);
    }
    result
}

/// Whether nothing else need be tried after a step has failed.
fn is_vain(step: &Step, error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    let is_answer = causes.any(|cause| matches!(cause.downcast_ref(), Some(kube::Error::Api(_))));
    matches!(step, Step::Apply(_)) && (is_config_map(step) || !is_answer)
}

/// Whether it is the settings' and the record's.
pub(super) fn is_config_map(step: &Step) -> bool {
    matches!(step, Step::Apply(object) if object.kind == Kind::ConfigMap)
}
