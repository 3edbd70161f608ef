//! The guest's calls of [`crate::page_state`], [`crate::storage_key`] and [`crate::dma`], decoded and checked
//! as far as that takes no knowledge of the VM.

use crate::dma::{DMA_DECLARE, DMA_UNDECLARE};
use crate::page_state::{PAGE_STATE, PAGE_STATE_DRAIN};
use crate::storage_key::{KEY_BULK, KEY_COND_SET, KEY_GET, KEY_RRB, KEY_SET};

/// A call about the guest's own memory. Addresses are multiples of 4096 and below 2^48,
/// counts at least one; whether there is RAM is not yet known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMemoryCall {
    /// [`PAGE_STATE`]: operation 0 to 7, first page, pages.
    PageState {
        /// Number of the operation.
        op: u64,
        /// First page.
        ipa: u64,
        /// Pages.
        pages: u64,
    },
    /// [`PAGE_STATE_DRAIN`].
    Drain,
    /// [`KEY_GET`].
    KeyGet {
        /// The page.
        ipa: u64,
    },
    /// [`KEY_SET`] and, with more than one page, [`KEY_BULK`].
    KeySet {
        /// First page.
        ipa: u64,
        /// Pages.
        pages: u64,
        /// Key byte, bit 0 clear.
        key: u8,
    },
    /// [`KEY_COND_SET`].
    KeyCondSet {
        /// The page.
        ipa: u64,
        /// Key byte, bit 0 clear.
        key: u8,
        /// Referenced need not be equal.
        mask_referenced: bool,
        /// Changed need not be equal.
        mask_changed: bool,
    },
    /// [`DMA_DECLARE`].
    Declare {
        /// First page.
        ipa: u64,
        /// Pages.
        pages: u64,
    },
    /// [`DMA_UNDECLARE`].
    Undeclare {
        /// First page.
        ipa: u64,
        /// Pages.
        pages: u64,
    },
    /// [`KEY_RRB`].
    KeyReset {
        /// The page.
        ipa: u64,
    },
}

/// An argument is outside its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Addresses have fewer bits than this.
const IPA_BITS: u32 = 48;
/// The hint that no SVE state is live (SMCCC 1.3, 2.2) is no part of the number.
const SVE_HINT: u32 = 1 << 16;

impl GuestMemoryCall {
    /// Reads call `function` (w0) with `args` (x1 to x3); `None` if it is none of these.
    pub fn decode(function: u32, args: [u64; 3]) -> Option<Result<Self, Invalid>> {
        let [a, b, c] = args;
        let call = match function & !SVE_HINT {
            PAGE_STATE => page(b).and_then(|ipa| {
                let op = if a <= 7 { Ok(a) } else { Err(Invalid) }?;
                let pages = count(c)?;
                Ok(Self::PageState { op, ipa, pages })
            }),
            PAGE_STATE_DRAIN => Ok(Self::Drain),
            DMA_DECLARE => page(a).and_then(|ipa| {
                let pages = count(b)?;
                Ok(Self::Declare { ipa, pages })
            }),
            DMA_UNDECLARE => page(a).and_then(|ipa| {
                let pages = count(b)?;
                Ok(Self::Undeclare { ipa, pages })
            }),
            KEY_GET => page(a).map(|ipa| Self::KeyGet { ipa }),
            KEY_SET => page(a).and_then(|ipa| {
                let key = key(b)?;
                Ok(Self::KeySet { ipa, pages: 1, key })
            }),
            KEY_COND_SET => page(a).and_then(|ipa| {
                let key = key(b)?;
                if c > 3 {
                    return Err(Invalid);
                }
                let (mask_referenced, mask_changed) = (c & 1 != 0, c & 2 != 0);
                Ok(Self::KeyCondSet {
                    ipa,
                    key,
                    mask_referenced,
                    mask_changed,
                })
            }),
            KEY_RRB => page(a).map(|ipa| Self::KeyReset { ipa }),
            KEY_BULK => page(a).and_then(|ipa| {
                let (pages, key) = (count(b)?, key(c)?);
                Ok(Self::KeySet { ipa, pages, key })
            }),
            _ => return None,
        };
        Some(call)
    }
}

fn page(ipa: u64) -> Result<u64, Invalid> {
    match ipa.is_multiple_of(4096) && ipa >> IPA_BITS == 0 {
        true => Ok(ipa),
        false => Err(Invalid),
    }
}

fn count(pages: u64) -> Result<u64, Invalid> {
    if pages == 0 { Err(Invalid) } else { Ok(pages) }
}

fn key(key: u64) -> Result<u8, Invalid> {
    match u8::try_from(key) {
        Ok(byte) if byte & 1 == 0 => Ok(byte),
        _ => Err(Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(function: u32, args: [u64; 3]) -> Option<Result<GuestMemoryCall, Invalid>> {
        GuestMemoryCall::decode(function, args)
    }

    #[test]
    fn a_call_in_range_is_what_its_arguments_say() {
        let got = decode(0xc600_0020, [2, 0x4000_1000, 9]);
        let (op, ipa, pages) = (2, 0x4000_1000, 9);
        assert_eq!(got, Some(Ok(GuestMemoryCall::PageState { op, ipa, pages })));
        // With the SVE hint it is the same call.
        assert_eq!(decode(0xc601_0020, [2, 0x4000_1000, 9]), got);
        assert_eq!(
            decode(0xc600_0021, [u64::MAX; 3]),
            Some(Ok(GuestMemoryCall::Drain))
        );
        let got = decode(0xc600_0032, [0x4000_0000, 0x52, 3]);
        let expected = GuestMemoryCall::KeyCondSet {
            ipa: 0x4000_0000,
            key: 0x52,
            mask_referenced: true,
            mask_changed: true,
        };
        assert_eq!(got, Some(Ok(expected)));
        let pages = decode(0xc600_0028, [0x4000_1000, 9, 0]);
        let wanted = GuestMemoryCall::Declare {
            ipa: 0x4000_1000,
            pages: 9,
        };
        assert_eq!(pages, Some(Ok(wanted)));
        let bulk = decode(0xc600_0034, [0x4000_0000, 7, 0x10]);
        let (ipa, pages, key) = (0x4000_0000, 7, 0x10);
        assert_eq!(bulk, Some(Ok(GuestMemoryCall::KeySet { ipa, pages, key })));
    }

    #[test]
    fn an_argument_out_of_range_is_refused() {
        for (function, args) in [
            (0xc600_0020, [8, 0x4000_0000, 1]),
            (0xc600_0020, [0, 0x4000_0800, 1]),
            (0xc600_0020, [0, 0x4000_0000, 0]),
            (0xc600_0020, [0, 1 << 48, 1]),
            (0xc600_0028, [0x4000_0001, 1, 0]),
            (0xc600_0028, [0x4000_0000, 0, 0]),
            (0xc600_0029, [1 << 48, 1, 0]),
            (0xc600_0030, [1, 0, 0]),
            (0xc600_0031, [0x4000_0000, 0x11, 0]),
            (0xc600_0031, [0x4000_0000, 0x100, 0]),
            (0xc600_0032, [0x4000_0000, 0x10, 4]),
            (0xc600_0033, [u64::MAX, 0, 0]),
            (0xc600_0034, [0x4000_0000, 0, 0x10]),
            (0xc600_0034, [0x4000_0000, 1, 1]),
        ] {
            assert_eq!(decode(function, args), Some(Err(Invalid)), "{function:#x}");
        }
    }

    #[test]
    fn other_numbers_are_not_ours() {
        for function in (0xc600_0000_u32..0xc600_0100).chain(0x8600_0000..0x8600_0100) {
            let ours = matches!(
                function,
                0xc600_0020 | 0xc600_0021 | 0xc600_0028 | 0xc600_0029
            ) || matches!(function, 0xc600_0030..=0xc600_0034);
            assert_eq!(decode(function, [0; 3]).is_some(), ours, "{function:#x}");
        }
    }
}
