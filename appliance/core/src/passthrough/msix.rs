//! The messages of functions that VMs have: MSI-X.
//!
//! The guest sees a table of its own (`pci::Vectors`). The function's has one message for each
//! vector that the guest can write down, to the machine's ITS (`lpi`), and is masked where the
//! guest masks. An LPI that comes of one is the guest's message, as the guest wrote it.
//!
//! A function's table has one lock, which comes after the function's ([`super::Slot`]) and before
//! the VM's ITS and vGIC: it is held until the message has arrived, so that a VM is not gone
//! before.
#![expect(unsafe_code, reason = "a table lies in a frame, reached by pointer")]

use arch::{Ipa, Pa, Width};
use devmem::Memory;
use gmap::Error;
use guest_abi::map::{GICD_BASE, ITS_TRANSLATER};
use pci::{BARS, Capabilities, Function, MsiX, VECTORS_MAX, Vectors};
use spin::Mutex;

use super::lpi::{self, PER_FUNCTION, Translation};
use super::{Dma, FUNCTIONS_MAX, Shown, Slot, window};
use crate::guest::{self, Vm};
use crate::{its, memory, per_cpu, schedule};

/// Offset of GICD_SETSPI_NSR, to which messages may go, too.
const GICD_SETSPI: u64 = 0x40;
const _: () = assert!(VECTORS_MAX as u32 <= PER_FUNCTION);
/// Order of the block with a table.
const ORDER: u8 = 1;
const _: () = assert!(size_of::<Vectors>() <= 4096 << ORDER);

/// The messages of one function.
#[derive(Debug)]
struct Messages {
    /// The VM, by handle, and the function's device ID there.
    vm: u64,
    device: u32,
    /// What the guest wrote.
    vectors: &'static mut Vectors,
    block: Pa,
    translation: Translation,
    /// What the function's own table has: where its messages go.
    doorbell: u64,
    /// Where the function's own table is.
    table: Pa,
}

static MESSAGES: [Mutex<Option<Messages>>; FUNCTIONS_MAX] =
    [const { Mutex::new(None) }; FUNCTIONS_MAX];

/// Returns MSI-X as a guest is to see it, if the machine can pass its messages on.
pub(super) fn offered(capabilities: &Capabilities) -> Option<MsiX> {
    let mut msi_x = capabilities.msi_x?;
    lpi::doorbell()?;
    msi_x.vectors = msi_x.vectors.min(VECTORS_MAX);
    Some(msi_x)
}

/// Makes function `n` ready to send messages to `vm`, where its device number is `number`;
/// false if it cannot.
pub(super) fn open(n: usize, slot: &Slot, vm: &Vm, number: u16, dma: Dma) -> bool {
    let msi_x = offered(&slot.function.capabilities);
    // Messages are writes: a function that may not write sends none.
    let Some(msi_x) = msi_x.filter(|_| dma != Dma::Never && vm.its.is_some()) else {
        return false;
    };
    let (place, doorbell) = (MESSAGES.get(n), lpi::doorbell());
    let table = slot
        .placed
        .get(usize::from(msi_x.table_bar))
        .copied()
        .flatten()
        .and_then(|bar| bar.checked_add(u64::from(msi_x.table_offset)));
    let (Some(place), Some(doorbell), Some(table)) = (place, doorbell, table) else {
        return false;
    };
    // Behind the SMMU the function has the guest's addresses.
    let seen = match dma {
        Dma::Bounded if show_doorbell(vm, doorbell) => ITS_TRANSLATER,
        Dma::Bounded | Dma::Never => return false,
        Dma::Unbounded => doorbell.raw(),
    };
    let home = vm.vcpu(0).map_or(0, |vcpu| vcpu.home());
    let Some(block) = memory::alloc_zeroed(ORDER) else {
        return false;
    };
    let core = per_cpu::cpu(home).number();
    let requester = slot.address.raw();
    let Some(translation) = lpi::map(n, requester, msi_x.vectors, core) else {
        memory::free(block, ORDER);
        return false;
    };
    let vectors = memory::ptr::<Vectors>(block);
    // SAFETY: the block is ours, large enough (asserted above) and aligned to its size.
    unsafe { vectors.write(Vectors::new(msi_x.vectors)) };
    // SAFETY: just written; the only reference, until `close` frees the block.
    let vectors = unsafe { &mut *vectors };
    *place.lock() = Some(Messages {
        vm: vm.handle(),
        device: u32::from(number) << 3,
        vectors,
        block,
        translation,
        doorbell: seen,
        table,
    });
    true
}

/// Shows the VM's devices the page with the machine's GITS_TRANSLATER where the guest's ITS has
/// its own. The guest's CPUs do not see it (decision 0014).
fn show_doorbell(vm: &Vm, doorbell: Pa) -> bool {
    let ipa = Ipa::new(ITS_TRANSLATER & !0xfff).expect("below 2^48");
    let shown = vm.gmap.dma.add_registers(ipa, doorbell.align_down(4096));
    // Another function of the VM's may have been first.
    matches!(shown, Ok(()) | Err(Error::Occupied { .. }))
}

/// Ends the messages of function `n`, which is quiet.
pub(super) fn close(n: usize) {
    let Some(gone) = MESSAGES.get(n).and_then(|place| place.lock().take()) else {
        return;
    };
    lpi::unmap(gone.translation);
    memory::free(gone.block, ORDER);
}

/// Returns where in a function's table the byte at `offset` of a BAR is; nothing for what is not
/// the table's.
pub(super) fn table_offset(
    function: &Function,
    placed: &[Option<Pa>; BARS],
    shown: &Shown,
    offset: u64,
) -> Option<u64> {
    let msi_x = function
        .capabilities
        .msi_x
        .filter(|_| shown.withheld.is_some())?;
    // By where it is: the guest may know the BAR by another number.
    if placed.get(usize::from(msi_x.table_bar)).copied().flatten() != Some(shown.pa) {
        return None;
    }
    let at = offset.checked_sub(u64::from(msi_x.table_offset))?;
    (at < msi_x.table_bytes()).then_some(at)
}

/// Makes a guest's access to the table of function `n`; returns what it loads.
pub(super) fn access(n: usize, at: u64, width: Width, store: Option<u64>) -> u64 {
    let Some(mut messages) = MESSAGES.get(n).map(Mutex::lock) else {
        return 0;
    };
    let Some(messages) = messages.as_mut() else {
        return width.mask();
    };
    let Some(value) = store else {
        return messages.vectors.read(at, width);
    };
    if let Some(vector) = messages.vectors.write(at, width, value) {
        messages.carry_over(vector);
    }
    0
}

/// Brings the table of function `n` in line with the guest's, after it lost what it had. Its
/// memory is on.
pub(super) fn restore(n: usize) {
    if let Some(messages) = MESSAGES.get(n)
        && let Some(messages) = messages.lock().as_ref()
    {
        for vector in 0..messages.vectors.count() {
            // After a reset all are masked.
            if messages.vectors.get(vector).is_some_and(|v| !v.masked) {
                messages.carry_over(vector);
            }
        }
    }
}

/// The guest's table is as after a reset.
pub(super) fn reset(n: usize) {
    if let Some(messages) = MESSAGES.get(n)
        && let Some(messages) = messages.lock().as_mut()
    {
        messages.vectors.reset();
    }
}

impl Messages {
    /// Writes the function's own entry for a vector: masked where the guest's is.
    fn carry_over(&self, vector: u16) {
        let Some(entry) = self.vectors.get(vector) else {
            return;
        };
        let word = |n: u64, value: u64| {
            if let Some(at) = self.table.checked_add(u64::from(vector) * 16 + n * 4) {
                // A function that does not answer sends no message either.
                let _ = window::write(at, Memory::Device, Width::Word, value);
            }
        };
        if entry.masked {
            word(3, 1);
            return;
        }
        word(0, self.doorbell & 0xffff_ffff);
        word(1, self.doorbell >> 32);
        word(2, u64::from(vector));
        word(3, 0);
    }
}

/// An LPI came: passes the message on that it stands for.
pub(crate) fn taken(intid: u32) {
    let n = intid.wrapping_sub(lpi::FIRST);
    let (function, vector) = ((n / PER_FUNCTION) as usize, (n % PER_FUNCTION) as u16);
    let Some(messages) = MESSAGES.get(function) else {
        return;
    };
    let messages = messages.lock();
    let Some(messages) = messages.as_ref() else {
        return;
    };
    let vm = guest::by_handle(messages.vm);
    let Some((vm, vector)) = vm.zip(messages.vectors.get(vector)) else {
        return;
    };
    if vector.address == ITS_TRANSLATER {
        its::message(vm, messages.device, vector.data);
    } else if vector.address == GICD_BASE + GICD_SETSPI {
        let data = u64::from(vector.data);
        let kick = vm.vgic.lock().dist_write(GICD_SETSPI, Width::Word, data);
        schedule::deliver(vm, kick);
    }
}
