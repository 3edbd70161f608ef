//! What a guest that is the appliance's root needs: the page it is entered with, core calls, and
//! the frames that they pass records in.
#![expect(unsafe_code, reason = "reads pages that core made")]

use guest_abi::core_call::{CoreCall, HostInfo, Status, VmInfo};
use guest_abi::memory_call::{HostMemory, MemoryPolicy, VmMemory};
use guest_abi::root_boot::{ROOT_BOOT_MAGIC, RootBoot};
use guest_abi::vcpu_info::VcpuInfo;

use crate::psci::{self, Conduit};
use crate::{machine, mem};

/// Returns the page root is entered with.
pub fn root_boot() -> &'static RootBoot {
    let (address, _) = machine::device_tree();
    let magic = mem::read64(address);
    assert!(magic == ROOT_BOOT_MAGIC, "x0 is no RootBoot: {magic:#x}");
    let page = core::ptr::with_exposed_provenance::<RootBoot>(address as usize);
    // SAFETY: core put the page there and neither core nor this program writes it.
    unsafe { &*page }
}

/// Returns the machine's boot arguments.
pub fn bootargs() -> &'static str {
    let boot = root_boot();
    core::str::from_utf8(&boot.bootargs[..boot.bootargs_len as usize]).unwrap_or("")
}

/// Returns where this program sees physical address `pa`.
pub fn window(pa: u64) -> u64 {
    root_boot().physmap_ipa + pa
}

/// Makes a core call; returns its status and x1 to x3.
pub fn try_call(call: CoreCall, args: &[u64]) -> (Status, [u64; 3]) {
    let mut registers = [0; 18];
    registers[0] = call as u64;
    registers[1..=args.len()].copy_from_slice(args);
    let got = psci::call(Conduit::Hvc, registers);
    let status = Status::from_x0(got[0]);
    let status = status.unwrap_or_else(|| panic!("{call:?} returned {:#x}", got[0]));
    (status, [got[1], got[2], got[3]])
}

/// Makes a core call that is to succeed, and again while it asks for that.
pub fn call(call: CoreCall, args: &[u64]) -> [u64; 3] {
    loop {
        match try_call(call, args) {
            (Status::Ok, values) => return values,
            (Status::Again, _) => {}
            (status, _) => panic!("{call:?} {args:x?}: {status:?}"),
        }
    }
}

/// A granted block of `4096 << order` bytes. Dropping it gives it back.
#[derive(Debug)]
pub struct Block {
    /// Physical address of its first byte.
    pub pa: u64,
    order: u64,
}

impl Block {
    /// Takes one, which is there to be had.
    pub fn new(order: u64) -> Self {
        let [pa, ..] = call(CoreCall::FramesGrant, &[order]);
        Self { pa, order }
    }

    /// Takes one, if there is one.
    pub fn grant(order: u64) -> Result<Self, Status> {
        loop {
            match try_call(CoreCall::FramesGrant, &[order]) {
                (Status::Ok, [pa, ..]) => return Ok(Self { pa, order }),
                (Status::Again, _) => {}
                (status, _) => return Err(status),
            }
        }
    }

    /// Where this program sees it.
    pub fn at(&self) -> u64 {
        window(self.pa)
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> usize {
        4096 << self.order
    }

    /// Returns its word `n`.
    pub fn word(&self, n: u64) -> u64 {
        mem::read64(self.at() + n * 8)
    }

    /// Sets its word `n`.
    pub fn set_word(&self, n: u64, value: u64) {
        mem::write64(self.at() + n * 8, value);
    }

    /// Returns its byte `n`.
    pub fn byte(&self, n: u64) -> u8 {
        mem::read8(self.at() + n) as u8
    }

    /// Sets its byte `n`.
    pub fn set_byte(&self, n: u64, value: u8) {
        mem::write8(self.at() + n, u64::from(value));
    }

    /// Sets all of it to zero.
    pub fn clear(&self) {
        for n in 0..512 << self.order {
            self.set_word(n, 0);
        }
    }

    /// Copies `bytes` to its start.
    pub fn fill(&self, bytes: &[u8]) {
        for (chunk, n) in bytes.chunks(8).zip(0..) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set_word(n, u64::from_le_bytes(word));
        }
    }

    /// Reads the record at its start.
    pub fn record<T: Record>(&self) -> T {
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

/// What core writes into a block: any bytes are a value of it.
pub trait Record: Copy {}
impl Record for HostInfo {}
impl Record for VmInfo {}
impl Record for VcpuInfo {}
impl Record for HostMemory {}
impl Record for VmMemory {}

/// Returns what core says of the machine's memory.
pub fn host_memory() -> HostMemory {
    host_memory_by(&Block::new(0))
}

/// As [`host_memory`], in a frame that is there already: taking one changes the answer.
pub fn host_memory_by(block: &Block) -> HostMemory {
    call(CoreCall::HostMemory, &[block.pa]);
    block.record()
}

/// Returns what core says of a VM's memory.
pub fn vm_memory(vm: u64) -> VmMemory {
    let block = Block::new(0);
    call(CoreCall::VmMemory, &[vm, block.pa]);
    block.record()
}

/// Sets what a VM's memory may be made of.
pub fn set_policy(vm: u64, policy: MemoryPolicy) {
    let block = Block::new(0);
    block.set_word(0, policy.limit_bytes);
    block.set_word(1, policy.table_limit_bytes);
    let (shift, flags) = (policy.largest_shift, policy.flags);
    block.set_word(2, u64::from(shift) | u64::from(flags) << 32);
    call(CoreCall::VmMemoryPolicy, &[vm, block.pa]);
}
