//! Jitter: workers that were started together must not be recycled together.

/// A number from 0 to `limit`, which the seed decides. Seeds that differ in one bit
/// give numbers that have nothing to do with each other.
#[must_use]
pub fn spread(seed: u64, limit: u64) -> u64 {
    // The finisher of SplitMix64.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    match limit.checked_add(1) {
        Some(count) => mixed % count,
        None => mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_spread_over_the_whole_range() {
        let numbers: Vec<u64> = (0..1000).map(|seed| spread(seed, 9)).collect();
        for wanted in 0..=9 {
            let count = numbers.iter().filter(|number| **number == wanted).count();
            assert!((50..200).contains(&count), "{wanted}: {count} times");
        }
        assert_eq!(spread(77, 0), 0);
        assert_ne!(spread(1, u64::MAX), spread(2, u64::MAX));
    }
}
