//! Stage-2 faults of guests: what is missing is looked for, made, and linked.
//!
//! Three steps, so that no frame is zeroed with the VM's lock held (`gmap`, module `fault`). A
//! large frame is zeroed 64 KiB at a time, and when an interrupt comes in between, who needs it
//! is let go and comes again. Who does not come again gets a page where no block is zeroed already.

use ::vcpu::stage1::{self, Regime};
use arch::{Ipa, Pa};
use gmap::{
    Access, Cache, Fault, FaultError, LinkError, Look, Scrubbing, Unscrubbed, Want, settle,
};
use guest_abi::core_call::Status;

use crate::guest::{Vcpu, Vm};
use crate::stage2::Stage2;
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

/// What happens when an interrupt comes while something large is made.
enum Patience<'a> {
    /// Whoever needs it comes again: here a block of 2 MiB is kept, as far as it is zeroed.
    Again(&'a mut Option<Scrubbing>),
    /// Nobody comes again: nothing is begun that takes long.
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
    let mut result = Err(FaultError::OutOfMemory);
    for _ in 0..LOOKS {
        result = resolve_for(vcpu, vm, ipa, access).map(|(fault, _)| fault);
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
    result
}

/// As [`fault`], for `caller`, whose memory it need not be, and who comes again when told that it
/// is for later.
pub(crate) fn resolve_for(
    caller: &mut Vcpu,
    vm: &Vm,
    ipa: Ipa,
    access: Access,
) -> Result<(Fault, bool), FaultError> {
    let means = &mut Means {
        cache: &mut caller.tables,
        patience: Patience::Again(&mut caller.half),
        later: false,
    };
    let result = settled(vm, means, ipa, access);
    let later = means.later;
    if !later && let Some(half) = caller.half.take() {
        // Another vCPU was quicker, or this one has turned to something else meanwhile.
        half.free(&mut vm.gmap.machine());
    }
    result.map(|fault| (fault, later))
}

/// As [`fault`], on core's own account: at once.
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
        Look::Held(want) => help(vm, &means.patience, want.ipa()),
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
        (gmap::ORDER_MAX, Patience::Again(_)) => {
            // Another vCPU that works on it is as good.
            let mut half = vm.gmap.huge.try_lock().ok_or(LinkError::Later)?;
            step(&mut half, order)
        }
        (memory::BLOCK_ORDER, patience) => match (scrub::take(order), patience) {
            (Some(frame), _) => Ok(frame),
            (None, Patience::Again(half)) => step(half, order),
            (None, Patience::None) => Err(LinkError::NoMemory),
        },
        _ => memory::alloc_zeroed(order).ok_or(LinkError::NoMemory),
    }
}

/// Returns a frame of zeroes for a call that `caller` makes again until it is whole.
pub(crate) fn zeroed_for(caller: &mut Vcpu, order: u8) -> Result<Pa, Status> {
    /// What is zeroed in one step.
    const STEP: u8 = 4;
    if order <= STEP {
        return memory::alloc_zeroed(order).ok_or(Status::Exhausted);
    }
    if let Some(frame) = scrub::take(order) {
        return Ok(frame);
    }
    step(&mut caller.half, order).map_err(unmade)
}

/// Returns what a call tells whose frame was not made.
pub(crate) fn unmade(error: LinkError) -> Status {
    match error {
        LinkError::Later | LinkError::Again => Status::Again,
        LinkError::NoMemory | LinkError::Limit => Status::Exhausted,
    }
}

/// Zeroes what is in `half`, or a new frame, until it is whole or an interrupt comes.
pub(crate) fn step(half: &mut Option<Scrubbing>, order: u8) -> Result<Pa, LinkError> {
    let mut machine = Stage2::unseen();
    let mut frame = match half.take() {
        Some(frame) if frame.bytes() == memory::FRAME << order => frame,
        other => {
            if let Some(other) = other {
                other.free(&mut machine);
            }
            let new = Unscrubbed::alloc(&mut machine, order);
            new.ok_or(LinkError::NoMemory)?.begin()
        }
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

/// Gets the block on that is moved from under who is to write there, or makes the move void.
fn help(vm: &Vm, patience: &Patience<'_>, ipa: Ipa) -> Result<(), LinkError> {
    let mut machine = vm.gmap.machine();
    if matches!(patience, Patience::None) {
        vm.gmap.shared().let_go(&machine, ipa);
        return Err(LinkError::Again);
    }
    while vm.gmap.exclusive().help(&mut machine, ipa) {
        if hw::interrupt_pending() {
            return Err(LinkError::Later);
        }
    }
    Err(LinkError::Again)
}

/// A copy of a page that others use too, in its place ([`gmap::Policy::copy`] is one page); of
/// the zeroes that all share, a block that is made as any other.
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
    let settle = || resolve(vm, cache, ipa, access).map(|_| false);
    with_page_by(vm, settle, ipa, access, f)
}

/// As [`with_page`], for `caller`, who comes again.
pub(crate) fn with_page_for<T>(
    caller: &mut Vcpu,
    vm: &Vm,
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, Missed> {
    let settle = || resolve_for(caller, vm, ipa, access).map(|(_, later)| later);
    with_page_by(vm, settle, ipa, access, f)
}

/// `settle` makes that the page is there, or says that it is for later.
fn with_page_by<T>(
    vm: &Vm,
    mut settle: impl FnMut() -> Result<bool, FaultError>,
    ipa: Ipa,
    access: Access,
    f: impl FnOnce(Pa) -> T,
) -> Result<T, Missed> {
    let machine = vm.gmap.machine();
    for _ in 0..LOOKS {
        if settle()? {
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
