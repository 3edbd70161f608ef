//! Stage-2 faults of guests: what is missing is looked for, made, and linked.
//!
//! Three steps, so that no frame is zeroed with the VM's lock held (`gmap`, module `fault`). A
//! large frame is zeroed 64 KiB at a time, and when an interrupt comes in between, the guest is
//! let go and faults again.

use ::vcpu::stage1::{self, Regime};
use arch::{Ipa, Pa};
use gmap::{
    Access, Cache, Fault, FaultError, LinkError, Look, Scrubbing, Unscrubbed, Want, settle,
};

use crate::guest::{Vcpu, Vm};
use crate::{hw, memory, pressure, scrub};

/// Looks before it is left to the guest to try again.
const LOOKS: usize = 8;

/// What a fault draws on.
struct Means<'a> {
    /// Pages for tables.
    cache: &'a mut Cache,
    patience: Patience<'a>,
    /// Something is being made, and an interrupt came first.
    later: bool,
}

/// What happens when an interrupt comes while a large frame is zeroed.
enum Patience<'a> {
    /// The guest faults again: here a block of 2 MiB is kept, as far as it is zeroed.
    Guest(&'a mut Option<Scrubbing>),
    /// Root calls again, where it is a GiB; a block is made at once.
    Caller,
    /// Nobody comes again: frames are of 2 MiB at most, and made at once.
    None,
}

/// Why core did not get to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// There is no RAM there, or not for this.
    NoRam,
    /// There is no memory for it.
    NoMemory,
    /// It is being made, or somebody keeps taking it: the same may succeed soon.
    Later,
}

impl From<FaultError> for Missed {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::NoSlot | FaultError::Permission => Self::NoRam,
            _ => Self::NoMemory,
        }
    }
}

/// Answers a stage-2 fault of the guest's `vcpu`. What takes long ends early when an interrupt
/// comes: the guest faults again and it goes on.
pub(crate) fn fault(vcpu: &mut Vcpu, ipa: Ipa, access: Access) -> Result<Fault, FaultError> {
    let vm = vcpu.vm();
    if vcpu.half.is_none() {
        vm.gmap.shared().count_fault();
    }
    let means = &mut Means {
        cache: &mut vcpu.tables,
        patience: Patience::Guest(&mut vcpu.half),
        later: false,
    };
    let mut result = Err(FaultError::OutOfMemory);
    for _ in 0..LOOKS {
        result = settled(vm, means, ipa, access);
        match result {
            // Somebody may have what it can do without: the guest tries again.
            Err(FaultError::OutOfMemory) if pressure::relieve(vm) => {
                result = Ok(Fault::AlreadyMapped);
                break;
            }
            // Another core may have given some back just now, and yet another taken it.
            Err(FaultError::OutOfMemory) => {}
            _ => {
                vm.asking.satisfied();
                break;
            }
        }
    }
    if !means.later
        && let Some(half) = vcpu.half.take()
    {
        // Another vCPU was quicker, or this one has turned to something else meanwhile.
        half.free(&mut vm.gmap.machine());
    }
    result
}

/// As [`fault`], on core's own account: at once, and in blocks of 2 MiB at most.
pub(crate) fn resolve(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
) -> Result<Fault, FaultError> {
    let means = &mut Means {
        cache,
        patience: Patience::None,
        later: false,
    };
    settled(vm, means, ipa, access)
}

fn settled(vm: &Vm, means: &mut Means<'_>, ipa: Ipa, access: Access) -> Result<Fault, FaultError> {
    settle(
        means,
        LOOKS,
        |_| vm.gmap.shared().look(&vm.gmap.machine(), ipa, access),
        |means, look| supply(vm, means, look, access),
    )
}

/// Makes what is missing, with no lock held, and links it.
fn supply(vm: &Vm, means: &mut Means<'_>, look: Look, access: Access) -> Result<(), LinkError> {
    let Some(want) = look.want() else {
        return Err(LinkError::Again);
    };
    let mut machine = vm.gmap.machine();
    let cost = vm.gmap.shared().link_cost(&machine, want)?;
    means
        .cache
        .topup(&mut machine, cost)
        .map_err(|_| LinkError::NoMemory)?;
    let result = match look {
        Look::Done => Err(LinkError::Again),
        Look::Missing(want) => fill(vm, means, want, access),
        Look::Shared(want) => copy(vm, means, want),
        Look::Zeroes(want) => vm.gmap.shared().link_zeroes(&machine, means.cache, want),
    };
    means.later = result == Err(LinkError::Later);
    result
}

/// A frame of zeroes, where there was none.
fn fill(vm: &Vm, means: &mut Means<'_>, want: Want, access: Access) -> Result<(), LinkError> {
    let frame = zeroed(vm, means, want.order())?;
    let gmap = vm.gmap.shared();
    let machine = vm.gmap.machine();
    let result = gmap.link(&machine, means.cache, want, frame, access, |_, _| ());
    drop(gmap);
    if result.is_err() {
        memory::free_unscrubbed(frame, want.order());
    }
    result
}

/// Makes a frame of zeroes, or as much of a large one as can be zeroed before an interrupt
/// comes: [`LinkError::Later`] until it is whole.
fn zeroed(vm: &Vm, means: &mut Means<'_>, order: u8) -> Result<Pa, LinkError> {
    match (order, &mut means.patience) {
        (gmap::ORDER_MAX, Patience::None) => Err(LinkError::NoMemory),
        (gmap::ORDER_MAX, _) => {
            // Another vCPU that works on it is as good.
            let mut half = vm.gmap.huge.try_lock().ok_or(LinkError::Later)?;
            step(vm, &mut half, order)
        }
        (memory::BLOCK_ORDER, Patience::Guest(half)) => match scrub::take(order) {
            Some(frame) => Ok(frame),
            None => step(vm, half, order),
        },
        _ => memory::alloc_zeroed(order).ok_or(LinkError::NoMemory),
    }
}

/// Zeroes what is in `half`, or a new frame, until it is whole or an interrupt comes.
fn step(vm: &Vm, half: &mut Option<Scrubbing>, order: u8) -> Result<Pa, LinkError> {
    let mut machine = vm.gmap.machine();
    let mut frame = match half.take() {
        Some(frame) => frame,
        None => Unscrubbed::alloc(&mut machine, order)
            .ok_or(LinkError::NoMemory)?
            .begin(),
    };
    loop {
        match frame.step(&machine) {
            Ok(whole) => {
                scrub::waited(memory::FRAME << order);
                return Ok(whole.into_pa());
            }
            Err(more) if hw::interrupt_pending() => {
                *half = Some(more);
                return Err(LinkError::Later);
            }
            Err(more) => frame = more,
        }
    }
}

/// A copy of a frame that others use too, in its place. A block of 2 MiB is copied in one go;
/// one of the zeroes that all share is made as any other.
fn copy(vm: &Vm, means: &mut Means<'_>, want: Want) -> Result<(), LinkError> {
    let mut machine = vm.gmap.machine();
    let frame = match want.is_zeroes() {
        true => zeroed(vm, means, want.order())?,
        false => want.prepare(&mut machine).ok_or(LinkError::NoMemory)?,
    };
    let mut gmap = vm.gmap.exclusive();
    let result = gmap.link_copy(&mut machine, means.cache, want, frame);
    drop(gmap);
    if result.is_err() {
        memory::free_unscrubbed(frame, want.order());
    }
    result
}

/// Returns where the tables of the loaded guest say that `va` is, if they do.
pub(crate) fn translate(vm: &Vm, va: u64) -> Option<Ipa> {
    let regime = Regime {
        sctlr: hw::sctlr_el1(),
        tcr: hw::tcr_el1(),
        ttbr0: hw::ttbr0_el1(),
        ttbr1: hw::ttbr1_el1(),
    };
    let gmap = vm.gmap.shared();
    let machine = vm.gmap.machine();
    stage1::translate(&regime, va, |ipa| {
        // Its tables lie in RAM; what they say elsewhere is nothing.
        let (pa, _) = gmap.translate(&machine, ipa)?;
        memory::is_pool(pa).then(|| memory::word(pa))
    })
}

/// Runs `f` with the frame of the page at `ipa`, populated and, if `access` is a store,
/// dirty. The frame stays the VM's while `f` runs: the lock is held shared.
pub(crate) fn with_page<T>(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, Missed> {
    with_page_by(vm, (cache, Patience::None), ipa, access, f)
}

/// As [`with_page`], for who comes again.
pub(crate) fn with_page_for_caller<T>(
    vm: &Vm,
    cache: &mut Cache,
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, Missed> {
    with_page_by(vm, (cache, Patience::Caller), ipa, access, f)
}

fn with_page_by<T>(
    vm: &Vm,
    (cache, patience): (&mut Cache, Patience<'_>),
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, Missed> {
    let machine = vm.gmap.machine();
    let means = &mut Means {
        cache,
        patience,
        later: false,
    };
    for _ in 0..LOOKS {
        settled(vm, means, ipa, access)?;
        if means.later {
            break;
        }
        let gmap = vm.gmap.shared();
        // Somebody may have taken it since.
        if gmap.look(&machine, ipa, access)? == Look::Done
            && let Some((pa, _)) = gmap.translate(&machine, ipa)
        {
            return Ok(f(pa.align_down(4096)));
        }
    }
    Err(Missed::Later)
}
