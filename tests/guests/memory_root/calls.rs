//! Core calls, and the frames they pass records in.
#![expect(unsafe_code, reason = "it reads the page that core made")]

use guest_abi::core_call::{CoreCall, Status};
use guest_abi::memory_call::{HostMemory, MemoryPolicy, VmMemory};
use guest_abi::root_boot::{ROOT_BOOT_MAGIC, RootBoot};
use payload::psci::{self, Conduit};
use payload::{machine, mem};

/// Returns the page root is entered with.
fn root_boot() -> &'static RootBoot {
    let (address, _) = machine::device_tree();
    let magic = mem::read64(address);
    assert!(magic == ROOT_BOOT_MAGIC, "x0 is no RootBoot: {magic:#x}");
    let page = core::ptr::with_exposed_provenance::<RootBoot>(address as usize);
    // SAFETY: Core put the page there and neither core nor this program writes it.
    unsafe { &*page }
}

/// Returns the machine's boot arguments.
pub(crate) fn bootargs() -> &'static str {
    let boot = root_boot();
    core::str::from_utf8(&boot.bootargs[..boot.bootargs_len as usize]).unwrap_or("")
}

/// Returns where this program sees physical address `pa`.
pub(crate) fn window(pa: u64) -> u64 {
    root_boot().physmap_ipa + pa
}

/// Makes a core call; returns its status and x1 to x3.
pub(crate) fn try_call(call: CoreCall, args: &[u64]) -> (Status, [u64; 3]) {
    let mut registers = [0; 18];
    registers[0] = call as u64;
    registers[1..=args.len()].copy_from_slice(args);
    let got = psci::call(Conduit::Hvc, registers);
    let status = Status::from_x0(got[0]);
    let status = status.unwrap_or_else(|| panic!("{call:?} returned {:#x}", got[0]));
    (status, [got[1], got[2], got[3]])
}

/// Makes a core call that is to succeed, and again while it asks for that.
pub(crate) fn call(call: CoreCall, args: &[u64]) -> [u64; 3] {
    loop {
        match try_call(call, args) {
            (Status::Ok, values) => return values,
            (Status::Again, _) => {}
            (status, _) => panic!("{call:?} {args:x?}: {status:?}"),
        }
    }
}

/// A granted block of `4096 << order` bytes.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) pa: u64,
    order: u64,
}

impl Block {
    pub(crate) fn new(order: u64) -> Self {
        let [pa, ..] = call(CoreCall::FramesGrant, &[order]);
        Self { pa, order }
    }

    /// Where this program sees it.
    pub(crate) fn at(&self) -> u64 {
        window(self.pa)
    }

    pub(crate) fn word(&self, n: u64) -> u64 {
        mem::read64(self.at() + n * 8)
    }

    pub(crate) fn set_word(&self, n: u64, value: u64) {
        mem::write64(self.at() + n * 8, value);
    }

    pub(crate) fn byte(&self, n: u64) -> u8 {
        mem::read8(self.at() + n) as u8
    }

    pub(crate) fn set_byte(&self, n: u64, value: u8) {
        mem::write8(self.at() + n, u64::from(value));
    }

    pub(crate) fn clear(&self) {
        for n in 0..512 << self.order {
            self.set_word(n, 0);
        }
    }

    /// Copies `bytes` to its start.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        for (chunk, n) in bytes.chunks(8).zip(0..) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set_word(n, u64::from_le_bytes(word));
        }
    }

    /// Reads the record at its start.
    fn record<T: Copy>(&self) -> T {
        let at = core::ptr::with_exposed_provenance::<T>(self.at() as usize);
        // SAFETY: the block is granted RAM, larger than any record and aligned; core has
        // written it, and any bytes are a value.
        unsafe { core::ptr::read_volatile(at) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        call(CoreCall::FramesRelease, &[self.pa, self.order]);
    }
}

pub(crate) fn host_memory() -> HostMemory {
    host_memory_by(&Block::new(0))
}

/// As [`host_memory`], in a frame that is there already: taking one changes the answer.
pub(crate) fn host_memory_by(block: &Block) -> HostMemory {
    call(CoreCall::HostMemory, &[block.pa]);
    block.record()
}

pub(crate) fn vm_memory(vm: u64) -> VmMemory {
    let block = Block::new(0);
    call(CoreCall::VmMemory, &[vm, block.pa]);
    block.record()
}

pub(crate) fn set_policy(vm: u64, policy: MemoryPolicy) {
    let block = Block::new(0);
    block.set_word(0, policy.limit_bytes);
    block.set_word(1, policy.table_limit_bytes);
    let (shift, flags) = (policy.largest_shift, policy.flags);
    block.set_word(2, u64::from(shift) | u64::from(flags) << 32);
    call(CoreCall::VmMemoryPolicy, &[vm, block.pa]);
}
