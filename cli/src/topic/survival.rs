//! What a topic survives, in words.

/// The setting that says how many replicas have an acknowledged message.
pub const MIN_IN_SYNC_KEY: &str = "min.insync.replicas";

/// What a topic survives with `replicas` copies, of which `min_in_sync` (at most all counts) have each
/// message that was acknowledged with acks=all: about its data and about writing.
///
/// More copies may have a message, but only `min_in_sync` are promised (KIP-966).
pub fn survival(replicas: i32, min_in_sync: i32) -> String {
    let replicas = replicas.max(1);
    let min_in_sync = min_in_sync.clamp(1, replicas);
    let brokers = if replicas == 1 {
        "1 broker".to_owned()
    } else {
        format!("{replicas} brokers")
    };
    let lost = format!(
        "acknowledged messages survive the loss of {} of {brokers}",
        min_in_sync - 1
    );
    match (replicas, replicas - min_in_sync) {
        (1, _) => format!("{lost}; while it is down nothing can be read or written"),
        (_, 0) => format!("{lost}; writes stop when any of them is down"),
        (_, writes) => format!("{lost}; writes go on with {writes} of them down"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_promised_and_no_more() {
        for (replicas, min, text) in [
            (
                1,
                1,
                "acknowledged messages survive the loss of 0 of 1 broker; while it is down nothing can be read or written",
            ),
            (
                3,
                2,
                "acknowledged messages survive the loss of 1 of 3 brokers; writes go on with 1 of them down",
            ),
            (
                3,
                1,
                "acknowledged messages survive the loss of 0 of 3 brokers; writes go on with 2 of them down",
            ),
            (
                3,
                3,
                "acknowledged messages survive the loss of 2 of 3 brokers; writes stop when any of them is down",
            ),
            (
                1,
                2,
                "acknowledged messages survive the loss of 0 of 1 broker; while it is down nothing can be read or written",
            ),
        ] {
            assert_eq!(survival(replicas, min), text);
        }
    }
}
