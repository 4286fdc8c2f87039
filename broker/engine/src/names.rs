//! What a topic may be called: Kafka's rules, since a name becomes a directory's.

use thiserror::Error;

/// The longest topic name, in bytes: with `-` and a partition's number it still fits a
/// file name of 255 bytes (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const MAX_TOPIC_NAME_LEN: usize = 249;

/// Why a name cannot be a topic's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No characters at all.
    #[error("a topic's name must not be empty")]
    Empty,
    /// Longer than [`MAX_TOPIC_NAME_LEN`].
    #[error("a topic's name has at most {MAX_TOPIC_NAME_LEN} characters; this one has {length}")]
    TooLong {
        /// The name's length in bytes.
        length: usize,
    },
    /// "." and ".." mean directories.
    #[error("a topic can't be called {name:?}: choose a name that is not a directory's")]
    Dots {
        /// The name.
        name: String,
    },
    /// A character that Kafka does not allow.
    #[error(
        "a topic's name has only letters, digits, '.', '_' and '-'; {character:?} at byte {position} is none of them"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Where it stands.
        position: usize,
    },
    /// Names that begin with two underscores are the cluster's own.
    #[error("topic names that begin with \"__\" are kept for the cluster itself: choose another")]
    Reserved,
}

/// Checks a topic's name.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots { name: name.to_owned() });
    }
    if let Some((position, character)) = name
        .char_indices()
        .find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        return Err(NameError::Character { character, position });
    }
    if name.len() > MAX_TOPIC_NAME_LEN {
        return Err(NameError::TooLong { length: name.len() });
    }
    Ok(())
}

/// Checks the name of a topic that a user creates: also not one of the cluster's own.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_new_topic_name(name: &str) -> Result<(), NameError> {
    check_topic_name(name)?;
    if name.starts_with("__") {
        return Err(NameError::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_kafka_accepts() {
        for name in ["a", "orders.v1", "A_b-C.9", "...", &"x".repeat(249)] {
            assert_eq!(check_new_topic_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refuses_each_kind_by_its_own_error() {
        assert_eq!(check_topic_name(""), Err(NameError::Empty));
        assert_eq!(check_topic_name(".."), Err(NameError::Dots { name: "..".into() }));
        assert_eq!(
            check_topic_name(&"x".repeat(250)),
            Err(NameError::TooLong { length: 250 })
        );
        assert_eq!(
            check_topic_name("a/../b"),
            Err(NameError::Character {
                character: '/',
                position: 1
            })
        );
        assert_eq!(
            check_topic_name("ä"),
            Err(NameError::Character {
                character: 'ä',
                position: 0
            })
        );
        assert_eq!(check_new_topic_name("__metadata"), Err(NameError::Reserved));
        assert_eq!(check_topic_name("__metadata"), Ok(()));
    }
}
