//! Core calls.
#![expect(unsafe_code, reason = "it reads the page that core made")]

use guest_abi::core_call::{CoreCall, HostInfo, Status, VmInfo};
use guest_abi::root_boot::{ROOT_BOOT_MAGIC, RootBoot};
use payload::psci::{self, Conduit};
use payload::{machine, mem};

/// Returns the page root is entered with.
pub(crate) fn root_boot() -> &'static RootBoot {
    let (address, _) = machine::device_tree();
    let magic = mem::read64(address);
    assert!(magic == ROOT_BOOT_MAGIC, "x0 is no RootBoot: {magic:#x}");
    let page = core::ptr::with_exposed_provenance::<RootBoot>(address as usize);
    // SAFETY: Core put the page there and neither core nor this program writes it.
    unsafe { &*page }
}

/// Makes a core call; returns x1 and x2.
pub(crate) fn call(call: CoreCall, args: [u64; 4]) -> Result<[u64; 2], Status> {
    let mut registers = [0; 18];
    registers[0] = call as u64;
    registers[1..5].copy_from_slice(&args);
    let got = psci::call(Conduit::Hvc, registers);
    match Status::from_x0(got[0]) {
        Some(Status::Ok) => Ok([got[1], got[2]]),
        Some(status) => Err(status),
        None => panic!("{call:?} returned {:#x}", got[0]),
    }
}

/// Returns where this program sees physical address `pa`.
pub(crate) fn window(pa: u64) -> u64 {
    root_boot().physmap_ipa + pa
}

/// A granted block of `4096 << order` bytes.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) pa: u64,
    order: u64,
}

impl Block {
    pub(crate) fn new(order: u64) -> Result<Self, Status> {
        let [pa, _] = loop {
            match call(CoreCall::FramesGrant, [order, 0, 0, 0]) {
                Err(Status::Again) => {}
                other => break other?,
            }
        };
        Ok(Self { pa, order })
    }

    /// Bytes of the block.
    pub(crate) fn len(&self) -> usize {
        4096 << self.order
    }

    /// Copies `bytes` to its start.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        for (chunk, at) in bytes.chunks(8).zip((window(self.pa)..).step_by(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mem::write64(at, u64::from_le_bytes(word));
        }
    }

    fn word(&self, n: u64) -> u64 {
        mem::read64(window(self.pa) + n * 8)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(status) = call(CoreCall::FramesRelease, [self.pa, self.order, 0, 0]) {
            panic!("FramesRelease: {status:?}");
        }
    }
}

pub(crate) fn host_info() -> HostInfo {
    let block = Block::new(0).expect("a frame for HostInfo");
    if let Err(status) = call(CoreCall::HostInfo, [block.pa, 0, 0, 0]) {
        panic!("HostInfo: {status:?}");
    }
    HostInfo {
        ram_bytes: block.word(0),
        free_bytes: block.word(1),
        core_bytes: block.word(2),
        root_bytes: block.word(3),
        granted_bytes: block.word(4),
        uptime_ns: block.word(5),
        ..HostInfo::default()
    }
}

pub(crate) fn vm_info(vm: u64) -> Result<VmInfo, Status> {
    let block = Block::new(0)?;
    call(CoreCall::VmInfo, [vm, block.pa, 0, 0])?;
    let mut info = VmInfo {
        state: (block.word(0) & 0xffff_ffff) as u32,
        reason: (block.word(0) >> 32) as u32,
        reason_pc: block.word(1),
        resident_bytes: block.word(2),
        overhead_bytes: block.word(3),
        ..VmInfo::default()
    };
    for (n, count) in (4..).zip(&mut info.exits) {
        *count = block.word(n);
    }
    for (n, count) in (13..).zip(&mut info.leaves) {
        *count = block.word(n);
    }
    info.run_ns = block.word(16);
    Ok(info)
}
