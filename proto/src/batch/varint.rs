//! The variable-length integers of a record: zigzag, seven bits a byte, least significant first, as
//! in Protocol Buffers' sint32 and sint64.

/// Most bytes of a 32-bit varint.
pub(crate) const MAX_VARINT_LEN: usize = 5;
/// Most bytes of a 64-bit varint.
pub(crate) const MAX_VARLONG_LEN: usize = 10;

/// Why a varint can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarintFault {
    /// The bytes end within it.
    Cut,
    /// It has more bytes or bits than its type.
    TooLong,
}

/// Reads a zigzag 32-bit integer at `*position` and moves beyond it.
#[inline]
pub(crate) fn read_i32(bytes: &[u8], position: &mut usize) -> Result<i32, VarintFault> {
    // Most lengths and deltas have one or two bytes.
    let raw = match bytes.get(*position..) {
        Some([a, ..]) if *a < 0x80 => {
            *position += 1;
            u32::from(*a)
        }
        Some([a, b, ..]) if *b < 0x80 => {
            *position += 2;
            u32::from(*a & 0x7f) | u32::from(*b) << 7
        }
        _ => {
            let mut after = *position;
            let raw = read_u64(bytes, &mut after, MAX_VARINT_LEN)?;
            let raw = u32::try_from(raw).map_err(|_| VarintFault::TooLong)?;
            *position = after;
            raw
        }
    };
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Reads a zigzag 64-bit integer at `*position` and moves beyond it.
#[inline]
pub(crate) fn read_i64(bytes: &[u8], position: &mut usize) -> Result<i64, VarintFault> {
    let raw = match bytes.get(*position) {
        Some(a) if *a < 0x80 => {
            *position += 1;
            u64::from(*a)
        }
        _ => read_u64(bytes, position, MAX_VARLONG_LEN)?,
    };
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn read_u64(bytes: &[u8], position: &mut usize, max_len: usize) -> Result<u64, VarintFault> {
    let mut value = 0u64;
    for index in 0..max_len {
        let byte = *bytes.get(*position + index).ok_or(VarintFault::Cut)?;
        let bits = u64::from(byte & 0x7f);
        if index == MAX_VARLONG_LEN - 1 && bits > 1 {
            return Err(VarintFault::TooLong);
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            *position += index + 1;
            return Ok(value);
        }
    }
    Err(VarintFault::TooLong)
}

/// Bytes of `value` as a varint; the same for 32 and 64 bits.
#[inline]
pub(crate) fn len(value: i64) -> usize {
    unsigned_len(zigzag(value))
}

/// The same without zigzag.
#[inline]
pub(crate) fn unsigned_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes `value` at `*position` of a buffer that has room for it; the same bytes for 32 and 64
/// bits.
#[inline]
pub(crate) fn write(buffer: &mut [u8], position: &mut usize, value: i64) {
    write_unsigned(buffer, position, zigzag(value));
}

/// The same without zigzag.
#[inline]
pub(crate) fn write_unsigned(buffer: &mut [u8], position: &mut usize, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        buffer[*position] = rest as u8 | 0x80;
        *position += 1;
        rest >>= 7;
    }
    buffer[*position] = rest as u8;
    *position += 1;
}

#[inline]
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut buffer = [0; MAX_VARLONG_LEN];
        let mut position = 0;
        write(&mut buffer, &mut position, value);
        buffer[..position].to_vec()
    }

    #[test]
    fn known_values() {
        // From the Protocol Buffers encoding guide.
        for (value, bytes) in [
            (0, vec![0]),
            (-1, vec![1]),
            (1, vec![2]),
            (63, vec![126]),
            (64, vec![128, 1]),
            (-64, vec![127]),
            (-65, vec![129, 1]),
            (i64::from(i32::MAX), vec![0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(encoded(value), bytes, "{value}");
        }
    }

    #[test]
    fn too_long_and_cut() {
        for (bytes, fault) in [
            (&[][..], VarintFault::Cut),
            (&[0x80][..], VarintFault::Cut),
            (&[0xff, 0xff, 0xff, 0xff][..], VarintFault::Cut),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f][..], VarintFault::TooLong),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..], VarintFault::TooLong),
        ] {
            let mut position = 0;
            assert_eq!(read_i32(bytes, &mut position), Err(fault), "{bytes:?}");
            assert_eq!(position, 0);
        }
        let mut position = 0;
        assert_eq!(read_i64(&[0xff; 11], &mut position), Err(VarintFault::TooLong));
        let mut two_bits_over = [0xff; 10];
        two_bits_over[9] = 2;
        assert_eq!(read_i64(&two_bits_over, &mut position), Err(VarintFault::TooLong));
    }

    proptest! {
        #[test]
        fn round_trip_64(value: i64, narrow in 0u32..63) {
            let value = value >> narrow;
            let bytes = encoded(value);
            let mut position = 0;
            prop_assert_eq!(bytes.len(), len(value));
            prop_assert_eq!(read_i64(&bytes, &mut position), Ok(value));
            prop_assert_eq!(position, bytes.len());
        }

        #[test]
        fn round_trip_32(value: i32, narrow in 0u32..31) {
            let value = value >> narrow;
            let bytes = encoded(i64::from(value));
            let mut position = 0;
            prop_assert_eq!(read_i32(&bytes, &mut position), Ok(value));
            prop_assert_eq!(position, bytes.len());
        }
    }
}
