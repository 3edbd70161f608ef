//! One VM: from the bytes of its guest to its end.

use crate::calls::{self, Block};
use crate::console::Console;
use crate::{Orders, tree};
use guest_abi::core_call::{CoreCall, ExitClass, Status, VM_ITS, VmState};
use guest_abi::map::{FLAT_OFFSET, RAM_BASE};
use payload::println;

/// The guests: flat images, or what stands in for one that was not asked for.
static GUESTS: [(&str, &[u8]); 7] = [
    ("", include_bytes!(env!("SKETE_DIRECT_GUEST"))),
    ("migrate", include_bytes!(env!("SKETE_DIRECT_MIGRATE"))),
    ("timers", include_bytes!(env!("SKETE_DIRECT_TIMERS"))),
    ("lock", include_bytes!(env!("SKETE_DIRECT_LOCK"))),
    ("turns", include_bytes!(env!("SKETE_DIRECT_TURNS"))),
    (
        "conformance",
        include_bytes!(env!("SKETE_DIRECT_CONFORMANCE")),
    ),
    ("paravirt", include_bytes!(env!("SKETE_DIRECT_PARAVIRT"))),
];

/// Returns the guest with this name.
pub(crate) fn guest(name: &str) -> Option<&'static [u8]> {
    let mut guests = GUESTS.iter();
    guests.find(|(is, _)| *is == name).map(|(_, image)| *image)
}
/// Granted blocks that guests are copied through: 256 KiB.
const COPY_ORDER: u64 = 6;

#[derive(Debug)]
pub(crate) struct Vm {
    n: usize,
    handle: u64,
    console: Console,
}

/// What went wrong, and how.
type Failed = (&'static str, Status);

impl Vm {
    /// Creates, loads and starts a VM.
    pub(crate) fn start(n: usize, orders: &Orders) -> Result<Self, Failed> {
        let ram_bytes = orders.mib << 20;
        let frame = Block::grant(COPY_ORDER).map_err(|status| ("FramesGrant", status))?;
        // A VmConfig: RAM, vCPUs and flags, name.
        let mut config = [0; 80];
        config[..8].copy_from_slice(&ram_bytes.to_le_bytes());
        config[8..12].copy_from_slice(&(orders.vcpus as u32).to_le_bytes());
        let its = if orders.device.is_some() && n == 0 {
            VM_ITS
        } else {
            0
        };
        let flags = orders.flags as u32 | its;
        config[12..16].copy_from_slice(&flags.to_le_bytes());
        config[16..22].copy_from_slice(b"direct");
        frame.fill(&config);
        let [handle, shared_pa] = calls::call(CoreCall::VmCreate, [frame.pa, 0, 0, 0])
            .map_err(|status| ("VmCreate", status))?;
        let vm = Self {
            n,
            handle,
            console: Console::new(n, shared_pa),
        };
        let entry = RAM_BASE + FLAT_OFFSET;
        vm.copy_in(&frame, entry, orders.guest)?;
        let args = alloc::format!("{} vm={n}", orders.args);
        let tree = tree::make(orders.vcpus, ram_bytes, &args).expect("a device tree");
        let tree_at = RAM_BASE + (ram_bytes / 2).next_multiple_of(0x20_0000);
        vm.copy_in(&frame, tree_at, &tree)?;
        if let Some(order) = orders.device.filter(|_| n == 0) {
            order
                .assign(handle)
                .map_err(|status| ("DeviceAssign", status))?;
        }
        vm.call(CoreCall::VmEntry, [entry, tree_at])?;
        if orders.cores != 0 {
            for vcpu in 0..orders.vcpus {
                vm.pin(vcpu, orders.cores);
            }
        }
        vm.call(CoreCall::VmStart, [0, 0])?;
        Ok(vm)
    }

    fn call(&self, call: CoreCall, args: [u64; 2]) -> Result<(), Failed> {
        calls::call(call, [self.handle, args[0], args[1], 0])
            .map(|_| ())
            .map_err(|status| ("VmEntry or VmStart", status))
    }

    fn copy_in(&self, frame: &Block, ipa: u64, bytes: &[u8]) -> Result<(), Failed> {
        for (chunk, at) in bytes
            .chunks(frame.bytes())
            .zip((ipa..).step_by(frame.bytes()))
        {
            frame.fill(chunk);
            let mut done = 0;
            while done < chunk.len() as u64 {
                let left = chunk.len() as u64 - done;
                let args = [self.handle, at + done, frame.pa + done, left];
                let copied = match calls::call(CoreCall::VmCopyIn, args) {
                    Ok([copied, _]) => copied,
                    // A frame for it is being zeroed.
                    Err(Status::Again) => continue,
                    Err(status) => return Err(("VmCopyIn", status)),
                };
                assert!(copied > 0 && copied <= left, "VmCopyIn copied {copied}");
                done += copied;
            }
        }
        Ok(())
    }

    /// Lets vCPU `vcpu` run on these cores only.
    pub(crate) fn pin(&self, vcpu: u64, cores: u64) {
        if let Err(status) = calls::call(CoreCall::VcpuAffinity, [self.handle, vcpu, cores, 0]) {
            println!("DIRECT vm{} VcpuAffinity {cores:#x}: {status:?}", self.n);
        }
    }

    /// Makes an SError pending in vCPU 0, with this syndrome.
    pub(crate) fn serror(&self, syndrome: u64) {
        if let Err(status) = calls::call(CoreCall::VcpuSerror, [self.handle, 0, syndrome, 0]) {
            println!("DIRECT vm{} VcpuSerror: {status:?}", self.n);
        }
    }

    /// Prints what the guest has printed; returns whether it has.
    pub(crate) fn console(&mut self) -> bool {
        self.console.drain(self.handle)
    }

    /// Returns whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        let state = VmState::from_u32(self.console.state());
        !matches!(state, Some(VmState::Built | VmState::Running))
    }

    /// Says how it ended, and frees it.
    pub(crate) fn destroy(&mut self) {
        match calls::vm_info(self.handle) {
            Ok(info) => {
                let state = VmState::from_u32(info.state);
                println!(
                    "DIRECT vm{} {state:?} reason {:#x} pc {:#x} resident {:#x} overhead {:#x} run_ns {}",
                    self.n,
                    info.reason,
                    info.reason_pc,
                    info.resident_bytes,
                    info.overhead_bytes,
                    info.run_ns
                );
                println!(
                    "DIRECT vm{} leaves {:?} exits {:?}",
                    self.n, info.leaves, info.exits
                );
                let vcpus = (0..).map_while(|vcpu| calls::vcpu_info(self.handle, vcpu).ok());
                let switches: u64 = vcpus.map(|vcpu| vcpu.switches).sum();
                println!("DIRECT vm{} switches {switches}", self.n);
            }
            Err(status) => println!("DIRECT vm{} VmInfo: {status:?}", self.n),
        }
        let mut slices = 1;
        loop {
            match calls::call(CoreCall::VmDestroy, [self.handle, 0, 0, 0]) {
                Ok(_) => break,
                Err(Status::Again) => slices += 1,
                Err(status) => {
                    println!("DIRECT vm{} VmDestroy: {status:?}", self.n);
                    break;
                }
            }
        }
        println!("DIRECT vm{} destroyed in {slices} slices", self.n);
        // The order of ExitClass, for whoever reads the line above.
        const { assert!(ExitClass::Injected as usize == 8) };
    }
}
