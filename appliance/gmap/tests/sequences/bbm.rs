//! Break-before-make against a table typed from the manual, over all pairs (M2).

use gmap::{Change, Descriptor, change};

/// Ten choices of what an entry may hold, each in two or more forms: every pair of the
/// thousands of entries made of them is compared.
fn entries(page_level: bool) -> Vec<u64> {
    let leaf = if page_level { 0b11 } else { 0b01 };
    let mut all = vec![0, 1 << 2 | 5 << 18, 2 << 2];
    if !page_level {
        all.extend([0x5000 | 0b11, 0x6000 | 0b11]);
    }
    let outputs = [0x4000_0000_u64, 0x8000_0000];
    let memattrs = [0xf_u64 << 2, 0x6 << 2];
    let shares = [3_u64 << 8, 2 << 8];
    for output in outputs {
        for memattr in memattrs {
            for share in shares {
                // S2AP 7:6, AF 10, DBM 51, contiguous 52, XN 54, software 60:55.
                let toggles = [6, 7, 10, 51, 52, 54, 55, 59, 60];
                for choice in 0..1_u64 << toggles.len() {
                    let set = toggles.iter().enumerate();
                    let bits = set.map(|(n, bit)| (choice >> n & 1) << bit);
                    all.push(output | memattr | share | leaf | bits.sum::<u64>());
                }
            }
        }
    }
    all
}

/// DDI 0487 D8.16.1, in words: what of a valid entry may not change in place.
fn expected(old: u64, new: u64, page_level: bool) -> Change {
    if old == new {
        return Change::None;
    }
    if old & 1 == 0 {
        return Change::Store;
    }
    if new & 1 == 0 {
        return Change::Invalidate;
    }
    let is_table = |bits: u64| !page_level && bits & 0b11 == 0b11;
    let output = |bits: u64| bits & 0x0000_ffff_ffff_f000;
    let memory = |bits: u64| (bits >> 2 & 0xf, bits >> 8 & 3, bits >> 52 & 1);
    if is_table(old) || is_table(new) || output(old) != output(new) || memory(old) != memory(new) {
        return Change::Break;
    }
    let hardware = |bits: u64| {
        (
            bits >> 6 & 3,
            bits >> 10 & 1,
            bits >> 51 & 1,
            bits >> 54 & 1,
        )
    };
    let cached = old >> 10 & 1 == 1;
    if hardware(old) == hardware(new) || !cached {
        return Change::Store;
    }
    Change::Invalidate
}

#[test]
fn b05_what_a_change_needs_is_what_the_manual_says_for_every_pair() {
    for page_level in [false, true] {
        let all = entries(page_level);
        for &old in &all {
            for &new in &all {
                let pair = (Descriptor::from_raw(old), Descriptor::from_raw(new));
                let found = change(pair.0, pair.1, page_level);
                if found != expected(old, new, page_level) {
                    panic!("{old:#x} to {new:#x}: {found:?}");
                }
            }
        }
    }
}
