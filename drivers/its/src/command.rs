//! Commands (IHI 0069H, 5.3), and how far the queue is.

/// Bytes of a command.
pub const COMMAND_BYTES: u64 = 32;

/// A command, as it lies in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Command([u64; 4]);

const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const INVALL: u64 = 0x0d;
const SYNC: u64 = 0x05;
const VALID: u64 = 1 << 63;

impl Command {
    /// Gives a device a translation table of 2^`bits` events (1 to 32), all zeroes, at `table`, a
    /// multiple of 256.
    pub const fn map_device(device: u32, bits: u8, table: u64) -> Self {
        Self([
            MAPD | (device as u64) << 32,
            (bits as u64).wrapping_sub(1) & 0x1f,
            VALID | table,
            0,
        ])
    }

    /// Takes a device's translation table away.
    pub const fn unmap_device(device: u32) -> Self {
        Self([MAPD | (device as u64) << 32, 0, 0, 0])
    }

    /// Leads a collection to a redistributor ([`crate::register::target`]).
    pub const fn map_collection(collection: u16, target: u64) -> Self {
        Self([MAPC, 0, VALID | target | collection as u64, 0])
    }

    /// Makes `event` of a device the LPI `intid`, for a collection.
    pub const fn map_event(device: u32, event: u32, intid: u32, collection: u16) -> Self {
        Self([
            MAPTI | (device as u64) << 32,
            (intid as u64) << 32 | event as u64,
            collection as u64,
            0,
        ])
    }

    /// Has a collection's redistributor look at the LPIs' configuration again.
    pub const fn invalidate_all(collection: u16) -> Self {
        Self([INVALL, 0, collection as u64, 0])
    }

    /// Is done when a redistributor has all that was sent to it.
    pub const fn sync(target: u64) -> Self {
        Self([SYNC, 0, target, 0])
    }

    /// Returns it as it lies in the queue.
    pub const fn words(self) -> [u64; 4] {
        self.0
    }
}

/// Where the next command goes, in a queue of one page of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    writer: u64,
}

impl Queue {
    /// Bytes of the queue.
    pub const BYTES: u64 = 4096;

    /// Returns the offset for the next command.
    pub const fn writer(self) -> u64 {
        self.writer
    }

    /// Returns whether there is room for a command, the ITS being at `reader`.
    pub const fn has_room(self, reader: u64) -> bool {
        self.behind() != reader
    }

    /// Moves on behind a command; returns what `GITS_CWRITER` is to be.
    pub const fn advance(&mut self) -> u64 {
        self.writer = self.behind();
        self.writer
    }

    const fn behind(self) -> u64 {
        self.writer.wrapping_add(COMMAND_BYTES) % Self::BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_manual_s() {
        assert_eq!(
            Command::map_device(0x18, 6, 0x4567_8900).words(),
            [0x18_0000_0008, 5, 0x8000_0000_4567_8900, 0]
        );
        assert_eq!(
            Command::unmap_device(0x18).words(),
            [0x18_0000_0008, 0, 0, 0]
        );
        assert_eq!(
            Command::map_collection(3, 0x5_0000).words(),
            [9, 0, 0x8000_0000_0005_0003, 0]
        );
        assert_eq!(
            Command::map_event(0x18, 7, 8300, 3).words(),
            [0x18_0000_000a, 0x206c_0000_0007, 3, 0]
        );
        assert_eq!(Command::invalidate_all(3).words(), [0xd, 0, 3, 0]);
        assert_eq!(Command::sync(0x5_0000).words(), [5, 0, 0x5_0000, 0]);
    }

    #[test]
    fn a_queue_keeps_one_place_free() {
        let mut queue = Queue::default();
        for n in 1..128 {
            assert!(queue.has_room(0));
            assert_eq!(queue.advance(), n * 32);
        }
        assert!(!queue.has_room(0));
        assert!(queue.has_room(32));
        assert_eq!(queue.advance(), 0);
    }
}
