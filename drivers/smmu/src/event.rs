//! Events (IHI 0070, 7.3).

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its StreamID, or the entry of it, is none that may do anything.
    Stream,
    /// Nothing is mapped there (F_TRANSLATION, F_ADDR_SIZE, F_ACCESS).
    Unmapped,
    /// What is mapped there may not be accessed so (F_PERMISSION).
    Permission,
    /// Anything else, by its number.
    Other(u8),
}

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Why.
    pub kind: Kind,
    /// Whose.
    pub stream: u32,
    /// Address that the device gave.
    pub address: u64,
    /// It was a read.
    pub read: bool,
}

impl Event {
    /// Reads the four words of a record.
    pub fn read(words: [u64; 4]) -> Self {
        let [first, second, address, _] = words;
        let [number, ..] = first.to_le_bytes();
        let [.., a, b, c, d] = first.to_le_bytes();
        Self {
            kind: match number {
                // C_BAD_STREAMID, F_STE_FETCH, C_BAD_STE, F_STREAM_DISABLED.
                0x02..=0x04 | 0x06 => Kind::Stream,
                0x10..=0x12 => Kind::Unmapped,
                0x13 => Kind::Permission,
                other => Kind::Other(other),
            },
            stream: u32::from_le_bytes([a, b, c, d]),
            address,
            read: second >> 35 & 1 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_who_where_and_why() {
        // F_TRANSLATION of stream 0x18, a write, at 0x4a00_0000.
        let event = Event::read([0x18_0000_0010, 0, 0x4a00_0000, 0x4a00_0000]);
        let wanted = Event {
            kind: Kind::Unmapped,
            stream: 0x18,
            address: 0x4a00_0000,
            read: false,
        };
        assert_eq!(event, wanted);
        assert!(Event::read([0x10, 1 << 35, 0, 0]).read);
        let kind = |number| Event::read([number, 0, 0, 0]).kind;
        assert_eq!((kind(2), kind(4)), (Kind::Stream, Kind::Stream));
        assert_eq!(
            (kind(0x13), kind(0x25)),
            (Kind::Permission, Kind::Other(0x25))
        );
    }
}
