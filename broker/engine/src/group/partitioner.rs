//! Which partition of the groups' topic a group belongs to.

/// The partition, of `partitions` ones, whose leader coordinates the group: Kafka's own rule (Java's
/// `String.hashCode`, over UTF-16, without its sign), so that any implementation finds the same.
/// The number of partitions must never change once groups are stored: their records would be
/// looked for elsewhere.
///
/// # Panics
/// If there are no partitions.
#[must_use]
pub fn group_partition(group: &str, partitions: u32) -> u32 {
    assert!(partitions > 0, "the groups' topic has partitions");
    let hash = group
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's Utils.abs: the one number without a positive twin counts as 0.
    let positive = hash.checked_abs().unwrap_or(0).unsigned_abs();
    positive % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_kafkas() {
        // "abc".hashCode() == 96354; "polygenelubricants".hashCode() == Integer.MIN_VALUE.
        assert_eq!(group_partition("abc", 50), 96_354 % 50);
        assert_eq!(group_partition("polygenelubricants", 50), 0);
        // "héllo".hashCode() == 103182409, 'é' being one unit of UTF-16.
        assert_eq!(group_partition("h\u{e9}llo", 1_000_000_007), java("h\u{e9}llo"));
        // Beyond the basic plane a character is two units.
        assert_eq!(group_partition("\u{1f600}", 1_000_000_007), 0xd83d * 31 + 0xde00);
        assert_eq!(group_partition("anything", 1), 0);
        assert_eq!(group_partition("", 7), 0);
    }

    /// The formula as Java's documentation has it, in wide numbers.
    fn java(text: &str) -> u32 {
        let units: Vec<u16> = text.encode_utf16().collect();
        let sum = units
            .iter()
            .fold(0i64, |sum, unit| (sum * 31 + i64::from(*unit)) % (1 << 32));
        let signed = if sum >= 1 << 31 { sum - (1 << 32) } else { sum };
        u32::try_from(signed.abs()).unwrap() % 1_000_000_007
    }
}
