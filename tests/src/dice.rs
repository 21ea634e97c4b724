/// Chance that can be repeated: rolls a number below what it is given.
///
/// The same seed rolls the same numbers (Marsaglia's xorshift).
pub fn dice(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state % u64::from(sides)).expect("below its sides")
    }
}
