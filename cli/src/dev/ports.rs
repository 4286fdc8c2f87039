//! Which ports the brokers of `millrace dev` have.

use crate::error::UsageError;

/// How far the brokers' client ports are apart.
const BROKER_DISTANCE: u16 = 10;
/// How far the port for other brokers is from the client port, as in the brokers' defaults.
const INTERNAL_DISTANCE: u16 = 1;
/// How far the HTTP port is from the client port, as in the brokers' defaults.
const HTTP_DISTANCE: u16 = 2;

/// The ports of one broker; 0: any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerPorts {
    pub client: u16,
    pub internal: u16,
    pub http: u16,
}

/// The ports of all brokers.
#[derive(Debug, PartialEq, Eq)]
pub struct Ports(Vec<BrokerPorts>);

impl Ports {
    /// The ports of `brokers` brokers, from `port` on.
    ///
    /// # Errors
    /// There are not so many ports, or one HTTP port is named for several brokers.
    pub fn new(brokers: u16, port: u16, http: Option<u16>) -> Result<Self, UsageError> {
        if brokers > 1 && http.is_some_and(|http| http > 0) {
            return Err(UsageError(
                "--http-port names one port and there are more brokers: leave it out, each has its client port and 2"
                    .into(),
            ));
        }
        let no_room = || {
            UsageError(format!(
                "port {port} leaves no room for the brokers' other ports: choose a lower one with --port"
            ))
        };
        let ports = (0..brokers).map(|number| {
            if port == 0 {
                return Ok(BrokerPorts {
                    client: 0,
                    internal: 0,
                    http: http.unwrap_or(0),
                });
            }
            let client = number
                .checked_mul(BROKER_DISTANCE)
                .and_then(|distance| port.checked_add(distance));
            let at = |distance: u16| {
                client
                    .and_then(|client| client.checked_add(distance))
                    .ok_or_else(no_room)
            };
            Ok(BrokerPorts {
                client: at(0)?,
                internal: at(INTERNAL_DISTANCE)?,
                http: http.map_or_else(|| at(HTTP_DISTANCE), Ok)?,
            })
        });
        Ok(Self(ports.collect::<Result<_, _>>()?))
    }

    /// Of each broker, in the order of their numbers.
    pub fn brokers(&self) -> &[BrokerPorts] {
        &self.0
    }

    /// Whether they are chosen by the system, and differ with each start.
    pub fn are_free(&self) -> bool {
        self.0.iter().any(|ports| ports.internal == 0)
    }
}

/// Brokers that keep their data look for each other at the ports that they had.
pub fn ports_must_stay() -> UsageError {
    UsageError(
        "brokers that keep their data must keep their ports: name one with --port, or leave out --data-dir".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(client: u16, internal: u16, http: u16) -> BrokerPorts {
        BrokerPorts { client, internal, http }
    }

    #[test]
    fn ports_follow_the_first() {
        let all = Ports::new(3, 9650, None).unwrap();
        let wanted = [
            ports(9650, 9651, 9652),
            ports(9660, 9661, 9662),
            ports(9670, 9671, 9672),
        ];
        assert_eq!(all.brokers(), wanted);
        assert!(!all.are_free());
        assert_eq!(
            Ports::new(1, 9650, Some(80)).unwrap().brokers(),
            [ports(9650, 9651, 80)]
        );
        let free = Ports::new(2, 0, None).unwrap();
        assert_eq!(free.brokers(), [ports(0, 0, 0); 2]);
        assert!(free.are_free());
    }

    #[test]
    fn ports_that_there_are_not_are_refused() {
        assert!(Ports::new(1, 65_534, None).is_err());
        assert!(Ports::new(1, 65_534, Some(0)).is_ok());
        assert!(Ports::new(9, 65_500, None).is_err());
        assert!(Ports::new(2, 9650, Some(80)).is_err());
        assert!(Ports::new(2, 9650, Some(0)).is_ok());
    }
}
