//! Commands (IHI 0070, 4).

/// A command, as it lies in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Command([u64; 2]);

const CFGI_STE: u64 = 0x03;
const CFGI_STE_RANGE: u64 = 0x04;
const TLBI_S12_VMALL: u64 = 0x28;
const TLBI_NSNH_ALL: u64 = 0x30;
const SYNC: u64 = 0x46;

impl Command {
    /// Forgets what is cached of the entry of a stream.
    pub const fn forget_stream(stream: u32) -> Self {
        Self([CFGI_STE | (stream as u64) << 32, 1])
    }

    /// Forgets what is cached of all entries (CFGI_ALL).
    pub const fn forget_all_streams() -> Self {
        Self([CFGI_STE_RANGE, 31])
    }

    /// Drops all translations of a VMID.
    pub const fn drop_vmid(vmid: u16) -> Self {
        Self([TLBI_S12_VMALL | (vmid as u64) << 32, 0])
    }

    /// Drops all translations.
    pub const fn drop_all() -> Self {
        Self([TLBI_NSNH_ALL, 0])
    }

    /// Is done when all commands before it are.
    pub const fn sync() -> Self {
        Self([SYNC, 0])
    }

    /// Returns it as it lies in the queue.
    pub const fn words(self) -> [u64; 2] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_manual_s() {
        assert_eq!(
            Command::forget_stream(0x18).words(),
            [0x18_0000_0003, 1],
            "CFGI_STE, leaf"
        );
        assert_eq!(Command::forget_all_streams().words(), [4, 31]);
        assert_eq!(Command::drop_vmid(0xabcd).words(), [0xabcd_0000_0028, 0]);
        assert_eq!(Command::drop_all().words(), [0x30, 0]);
        assert_eq!(Command::sync().words(), [0x46, 0]);
    }
}
