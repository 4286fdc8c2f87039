//! What a topic survives, in numbers and in words.

/// The setting that says how many replicas have an acknowledged message.
pub const MIN_IN_SYNC_KEY: &str = "min.insync.replicas";

/// What a topic survives, about messages that were acknowledged with acks=all.
///
/// More copies may have a message, but only `min.insync.replicas` are promised (KIP-966).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Brokers that may be lost for ever without an acknowledged message being lost.
    pub brokers_lost_without_loss: i32,
    /// Brokers that may be down while acks=all still writes.
    pub brokers_down_while_writable: i32,
    /// The same for people.
    pub text: String,
}

/// What a topic survives with `replicas` copies, of which `min_in_sync` (at most all counts) have each
/// acknowledged message.
pub fn survival(replicas: i32, min_in_sync: i32) -> Survival {
    let replicas = replicas.max(1);
    let min_in_sync = min_in_sync.clamp(1, replicas);
    let (lost, down) = (min_in_sync - 1, replicas - min_in_sync);
    let text = match (replicas, lost, down) {
        (1, ..) => "1 copy: if this broker's disk is lost, so are the messages; while the broker is down nothing \
                    can be read or written"
            .to_owned(),
        (_, lost, 0) => format!(
            "{replicas} copies: acknowledged messages survive the loss of {}; writes stop when any broker is down",
            brokers(lost)
        ),
        (_, 0, down) => format!(
            "{replicas} copies, 1 sure at the acknowledgement: the loss of 1 broker can lose acknowledged messages; \
             writes go on with {} down",
            brokers(down)
        ),
        (_, lost, down) => format!(
            "{replicas} copies: acknowledged messages survive the loss of {}; writes go on with {} down",
            brokers(lost),
            brokers(down)
        ),
    };
    Survival {
        brokers_lost_without_loss: lost,
        brokers_down_while_writable: down,
        text,
    }
}

fn brokers(number: i32) -> String {
    format!("{number} broker{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_promised_and_no_more() {
        let one = "1 copy: if this broker's disk is lost, so are the messages; while the broker is down nothing can be \
                   read or written";
        for (replicas, min, lost, down, text) in [
            (1, 1, 0, 0, one),
            (1, 2, 0, 0, one),
            (
                3,
                2,
                1,
                1,
                "3 copies: acknowledged messages survive the loss of 1 broker; writes go on with 1 broker down",
            ),
            (
                3,
                1,
                0,
                2,
                "3 copies, 1 sure at the acknowledgement: the loss of 1 broker can lose acknowledged messages; writes \
                 go on with 2 brokers down",
            ),
            (
                3,
                3,
                2,
                0,
                "3 copies: acknowledged messages survive the loss of 2 brokers; writes stop when any broker is down",
            ),
        ] {
            let survival = survival(replicas, min);
            assert_eq!(survival.text, text);
            assert_eq!(
                (survival.brokers_lost_without_loss, survival.brokers_down_while_writable),
                (lost, down)
            );
        }
    }
}
