//! Storage keys: an access key, fetch protection, referenced and changed for each page.
//!
//! SMCCC fast HVC64 calls of the vendor-specific hypervisor service (owner 6); refusals are
//! those of [`crate::page_state`]. A key is a byte: access key in 7:4, fetch protection 0x08,
//! referenced 0x04, changed 0x02; 0x01 is reserved, zero.
//!
//! Keys restrict what is done to the guest's memory on somebody's behalf, with an access key:
//! key 0 may do everything, a store needs an equal key, a load needs one where fetch
//! protection is on. The guest's own loads and stores are not checked. The first call of a
//! VM puts keys into use and sets every key to zero.

/// `(ipa) -> (key)`: reads the key of a page.
pub const KEY_GET: u32 = 0xc600_0030;
/// `(ipa, key) -> (1)`: sets the key of a page, referenced and changed included; as
/// [`KEY_BULK`] for one page.
pub const KEY_SET: u32 = 0xc600_0031;
/// `(ipa, key, mask) -> (set, old)`: sets the key unless the page has it already. With bit 0
/// of `mask` referenced need not be equal, with bit 1 changed. x0 is 1 if it was set, else 0;
/// x1 is the old key. A page without a frame is always set.
pub const KEY_COND_SET: u32 = 0xc600_0032;
/// `(ipa) -> (condition)`: resets referenced. x0 has referenced in bit 1 and changed in bit
/// 0, as they were.
pub const KEY_RRB: u32 = 0xc600_0033;
/// `(ipa, pages, key) -> (done)`: sets the key of many pages. Returns how many were done, at
/// least one and at most [`crate::page_state::PAGES_MAX`]; call again for the rest.
pub const KEY_BULK: u32 = 0xc600_0034;

/// Function numbers of this file, as bits of FEATURES.
pub const FUNCTIONS: [u8; 5] = [0x30, 0x31, 0x32, 0x33, 0x34];

/// Access key of a key byte.
pub const ACCESS: u8 = 0xf0;
/// Fetch protection of a key byte.
pub const FETCH: u8 = 0x08;
/// Referenced, of a key byte.
pub const REFERENCED: u8 = 0x04;
/// Changed, of a key byte.
pub const CHANGED: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not edit; add lines.
    #[test]
    fn numbers_are_forever() {
        let calls = [KEY_GET, KEY_SET, KEY_COND_SET, KEY_RRB, KEY_BULK];
        let numbers = [
            0xc600_0030,
            0xc600_0031,
            0xc600_0032,
            0xc600_0033,
            0xc600_0034,
        ];
        assert_eq!(calls, numbers);
        for (call, function) in calls.into_iter().zip(FUNCTIONS) {
            assert_eq!(call & 0xff, u32::from(function));
        }
        assert_eq!(ACCESS | FETCH | REFERENCED | CHANGED, 0xfe);
    }
}
