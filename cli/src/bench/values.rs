//! Values to send: random bytes made once, so that making them costs the measurement nothing and
//! no compression shrinks them.

/// Bytes of random data; values are windows of it.
const POOL_BYTES: usize = 4 << 20;

/// A pool of random bytes.
#[derive(Clone, Debug)]
pub struct Values {
    pool: Vec<u8>,
    size: usize,
    /// Values that lie side by side in the pool.
    count: usize,
}

impl Values {
    /// Values of `size` bytes.
    pub fn new(size: usize) -> Self {
        let length = POOL_BYTES.max(size);
        let mut pool = Vec::with_capacity(length + 8);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while pool.len() < length {
            pool.extend_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        Self {
            pool,
            size,
            count: (length / size.max(1)).max(1),
        }
    }

    /// The value with this number; numbers far apart may have the same.
    pub fn get(&self, number: u64) -> &[u8] {
        let at = usize::try_from(number % self.count as u64).unwrap_or(0) * self.size;
        &self.pool[at..at + self.size]
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        for size in [0, 1, 100, 1024, POOL_BYTES + 1] {
            let values = Values::new(size);
            for number in [0, 1, 2, 1_000_000_007, u64::MAX] {
                assert_eq!(values.get(number).len(), size);
            }
        }
        let values = Values::new(100);
        assert_ne!(values.get(0), values.get(1));
        let distinct: std::collections::HashSet<u8> = values.get(0).iter().copied().collect();
        assert!(distinct.len() > 50, "not random");
    }
}
