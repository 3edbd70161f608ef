//! Root: loading it, what it may see, and its doorbell.
//!
//! Core loads root as a flat image and tells it in a [`RootBoot`] page what is its own. Of
//! physical memory root's stage 2 shows, at `window + PA`, the devices that are root's, the
//! pages shared with it, and the frames granted to it; nothing else.
#![expect(
    unsafe_code,
    reason = "builds the pages root reads, in frames core owns"
)]

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::{Ipa, Pa};
use boot_entry::{PA_LIMIT, PHYSMAP};
use boot_info::{Device, Range};
use gmap::{Attr, Perm};
use guest_abi::core_call::VmState;
use guest_abi::map;
use guest_abi::root_boot::{
    DEVICE_PL031, DEVICE_VIRTIO_MMIO, DOORBELL_INTID, Doorbell, ROOT_BOOT_MAGIC, ROOT_RAM_IPA,
    RootBoot, RootDevice,
};
use guest_abi::vm_shared::VM_SHARED_BYTES;
use image_format::Bundle;
use spin::{Mutex, Once};
use vgic::Vgic;

use crate::boot::Machine;
use crate::console::println;
use crate::guest::{self, ROOT_SLOT, Vm};
use crate::{gic, hw, memory, per_cpu, physmap, rebirth, schedule, timer, world};

/// Bytes of root's RAM. Populated by fault, like any guest's.
const RAM_BYTES: u64 = 48 << 20;
/// Name of root's part in the bundle.
const PART: &str = "root";

static DOORBELL: AtomicU64 = AtomicU64::new(0);
/// IPA of physical address 0 in root's stage 2.
static WINDOW: AtomicU64 = AtomicU64::new(0);
/// Where root's image comes from, each time that it is started.
static IMAGE: Once<Image> = Once::new();
/// The page that root is entered with. Zeroed as a whole, padding included: root reads all of
/// it.
static PAGE: Mutex<MaybeUninit<RootBoot>> = Mutex::new(MaybeUninit::zeroed());

/// Root's image, in the bundle.
#[derive(Debug)]
struct Image {
    data: &'static [u8],
    load_address: u64,
    entry: u64,
}

const READ_WRITE: Perm = Perm {
    read: true,
    write: true,
    exec: false,
};

/// Returns where root's stage 2 shows physical address `pa`.
pub(crate) fn window(pa: Pa) -> Option<Ipa> {
    Ipa::new(WINDOW.load(Ordering::Relaxed))?.checked_add(pa.raw())
}

/// Tells root that something about the VM in `slot` changed.
pub(crate) fn ring(slot: usize) {
    if slot >= ROOT_SLOT {
        return;
    }
    let Some(doorbell) = bell() else {
        return;
    };
    let bit = 1 << slot;
    if doorbell.vms.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        return;
    }
    let Some(root) = guest::by_slot(ROOT_SLOT) else {
        return;
    };
    let kick = root.vgic.lock().pulse(0, DOORBELL_INTID);
    schedule::deliver(root, kick);
}

/// Loads root from the bundle and switches it on. Reports and returns if it cannot.
pub(crate) fn boot(machine: &Machine, cores: usize, reset_ticks: u64) {
    if let Err(why) = try_boot(machine, cores, reset_ticks) {
        println!("no root, so no control port: {why}");
    }
}

fn try_boot(machine: &Machine, cores: usize, reset_ticks: u64) -> Result<(), &'static str> {
    let range = machine
        .bundle
        .ok_or("the image carries no bundle (cargo xtask build makes one)")?;
    // SAFETY: the bundle lies behind the image in RAM that is kept out of the frame pool,
    // mapped, and written by nobody, ever.
    let bytes: &'static [u8] = unsafe {
        core::slice::from_raw_parts((PHYSMAP + range.pa) as *const u8, range.bytes as usize)
    };
    let part = Bundle::parse(bytes)
        .ok()
        .and_then(|bundle| bundle.find(PART))
        .ok_or("the bundle has no part \"root\"")?;

    // The window needs one bit more than RAM's addresses.
    let ipa_bits = world::pa_bits().min(44);
    let window = 1_u64 << (ipa_bits - 1);
    let ram_end = machine.info.ram.iter().map(Range::end).max().unwrap_or(0);
    if ram_end > window.min(PA_LIMIT) {
        return Err("RAM lies beyond what root's IPA space can show");
    }
    WINDOW.store(window, Ordering::Relaxed);
    let root = guest::create_root(RAM_BYTES, ipa_bits).map_err(|_| "no memory for root")?;

    let doorbell = memory::alloc_zeroed(0).ok_or("no memory for the doorbell")?;
    show(root, doorbell, memory::FRAME, Attr::Normal)?;
    DOORBELL.store(memory::va(doorbell), Ordering::Release);

    let image = IMAGE.call_once(|| Image {
        data: part.data,
        load_address: part.load_address,
        entry: part.entry,
    });
    let mut page = PAGE.lock();
    // SAFETY: a RootBoot is integers, for which zero is a value.
    let boot = unsafe { page.assume_init_mut() };
    boot.magic = ROOT_BOOT_MAGIC;
    boot.ram_bytes = RAM_BYTES;
    boot.image_end_ipa = part.load_address + part.memory_bytes;
    boot.physmap_ipa = window;
    boot.physmap_bytes = ram_end;
    boot.doorbell_pa = doorbell.raw();
    boot.machine_ram_bytes = memory::usage().ram;
    boot.midr = hw::midr_el1();
    boot.reset_ticks = reset_ticks;
    boot.cores = cores as u32;
    boot.counter_hz = hw::cntfrq() as u32;
    boot.bootargs_len = machine.info.bootargs.len() as u32;
    boot.rng_seed_len = machine.info.rng_seed.len() as u32;
    copy_into(&mut boot.bootargs, &machine.info.bootargs);
    copy_into(&mut boot.rng_seed, &machine.info.rng_seed);
    let virtio = machine.info.virtio.iter().map(|d| (DEVICE_VIRTIO_MMIO, d));
    let rtc = machine.info.rtc.into_iter().map(|d| (DEVICE_PL031, d));
    for (kind, device) in virtio.chain(rtc) {
        hand_over(root, boot, kind, device)?;
    }
    drop(page);

    load(root, image.load_address, image.data)?;
    load_page(root, 1, 0, 0)?;
    root.change_state(VmState::Built, VmState::Running);
    enter(root)?;
    let cpu = per_cpu::this();
    rebirth::watch(cpu);
    timer::arm(cpu);
    Ok(())
}

/// Copies the piece of root's image that begins at byte `done` to where it runs, `most` bytes at
/// the most. Returns whether there is more.
pub(crate) fn load_part(root: &Vm, done: usize, most: usize) -> Result<bool, &'static str> {
    let image = IMAGE.get().ok_or("it never was")?;
    let rest = image.data.get(done..).unwrap_or(&[]);
    let piece = rest.get(..most).unwrap_or(rest);
    load(root, image.load_address + done as u64, piece)?;
    Ok(piece.len() < rest.len())
}

/// Writes the page that root is entered with.
pub(crate) fn load_page(
    root: &Vm,
    generation: u64,
    end: u32,
    unready: u32,
) -> Result<(), &'static str> {
    let mut page = PAGE.lock();
    // SAFETY: a RootBoot is integers, for which zero is a value.
    let boot = unsafe { page.assume_init_mut() };
    boot.generation = generation;
    boot.end = end;
    boot.unready = unready;
    // SAFETY: every byte of the page was written, by zeroing it or since.
    let bytes =
        unsafe { core::slice::from_raw_parts(page.as_ptr().cast::<u8>(), size_of::<RootBoot>()) };
    load(root, ROOT_RAM_IPA, bytes)
}

/// Returns the counter's value when core was entered after reset.
pub(crate) fn reset_ticks() -> u64 {
    let page = PAGE.lock();
    // SAFETY: a RootBoot is integers, for which zero is a value.
    unsafe { page.assume_init_ref() }.reset_ticks
}

/// Switches root on.
pub(crate) fn enter(root: &Vm) -> Result<(), &'static str> {
    let image = IMAGE.get().ok_or("it never was")?;
    let vcpu = root.vcpu(0).ok_or("root has no vCPU")?;
    schedule::power_on(vcpu, image.entry, ROOT_RAM_IPA).map_err(|_| "root is on already")
}

/// Shows `each` every device of root's.
pub(crate) fn each_device(each: impl Fn(&RootDevice)) {
    let page = PAGE.lock();
    // SAFETY: a RootBoot is integers, for which zero is a value.
    let boot = unsafe { page.assume_init_ref() };
    boot.devices
        .iter()
        .take(boot.device_count as usize)
        .for_each(each);
}

/// Gives root the interrupts that it starts with, none of them pending, and has core ring anew.
#[inline(never)]
pub(crate) fn reset_interrupts(root: &Vm) {
    let mut vgic = root.vgic.lock();
    *vgic = Vgic::new(1);
    for timer in [map::VTIMER_INTID, map::PTIMER_INTID] {
        // Nothing is active, so nobody needs to be told.
        let _ = vgic.set_hardware(0, timer, Some(timer));
    }
    drop(vgic);
    each_device(|device| {
        if device.intid != 0 {
            let mut vgic = root.vgic.lock();
            let _ = vgic.set_hardware(0, device.intid, Some(device.intid));
        }
    });
    if let Some(doorbell) = bell() {
        doorbell.beat.store(0, Ordering::Relaxed);
        // After the vGIC: whoever rings from now on is heard.
        doorbell.vms.store(0, Ordering::Release);
    }
}

fn bell() -> Option<&'static Doorbell> {
    let doorbell = DOORBELL.load(Ordering::Acquire) as *const Doorbell;
    // SAFETY: null, or a page that was allocated zeroed for this, for good, and holds atomics.
    unsafe { doorbell.as_ref() }
}

/// Returns root's sign of life, 0 if it has not given one in this life.
pub(crate) fn beat() -> u64 {
    bell().map_or(0, |doorbell| doorbell.beat.load(Ordering::Relaxed))
}

fn copy_into(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Copies into root's RAM, populating it.
fn load(root: &Vm, ipa: u64, bytes: &[u8]) -> Result<(), &'static str> {
    let mut done = 0;
    while done < bytes.len() {
        let at = ipa + done as u64;
        let page = Ipa::new(at & !0xfff).ok_or("root's image lies outside its RAM")?;
        let frame = root
            .gmap
            .shared()
            .populate(&mut root.gmap.machine(), page)
            .map_err(|_| "root's image does not fit its RAM, or there is no memory")?;
        let within = (at & 0xfff) as usize;
        let n = (4096 - within).min(bytes.len() - done);
        let to = frame
            .checked_add(within as u64)
            .ok_or("root's image lies outside its RAM")?;
        memory::copy_in(to, bytes.get(done..done + n).unwrap_or(&[]));
        // Root starts with its caches off, and runs what was copied.
        hw::clean_to_poc(memory::va(to), n as u64);
        done += n;
    }
    Ok(())
}

/// Gives a device to root: its registers, and its interrupt under the same INTID.
fn hand_over(
    root: &Vm,
    boot: &mut RootBoot,
    kind: u32,
    device: Device,
) -> Result<(), &'static str> {
    let Some(entry) = boot.devices.get_mut(boot.device_count as usize) else {
        println!(
            "root can have no more devices: {:#x} is left out",
            device.registers.pa
        );
        return Ok(());
    };
    *entry = RootDevice {
        kind,
        intid: device.interrupt.map_or(0, |i| i.intid),
        pa: device.registers.pa,
        bytes: device.registers.bytes,
        edge: device.interrupt.map_or(0, |i| u32::from(i.edge)),
        reserved: 0,
    };
    boot.device_count += 1;
    let from = device.registers.pa & !0xfff;
    let to = device.registers.end().next_multiple_of(4096);
    boot.physmap_bytes = boot.physmap_bytes.max(to);
    let pa = Pa::new(from).ok_or("a device lies beyond 2^48")?;
    // Several transports share a page; the second finds it there.
    let shown = window(pa).is_some_and(|ipa| {
        let gmap = root.gmap.shared();
        gmap.translate(&root.gmap.machine(), ipa).is_some()
    });
    if !shown {
        show(root, pa, to - from, Attr::Device)?;
    }
    // Core resets it when root has ended.
    physmap::add_device(device.registers).map_err(|_| "no table for a device's registers")?;
    if let Some(interrupt) = device.interrupt {
        let mut vgic = root.vgic.lock();
        let _ = vgic.set_hardware(0, interrupt.intid, Some(interrupt.intid));
        drop(vgic);
        gic::enable_spi(interrupt, per_cpu::cpu(0).mpidr.load(Ordering::Relaxed));
    }
    Ok(())
}

fn show(root: &Vm, pa: Pa, bytes: u64, attr: Attr) -> Result<(), &'static str> {
    let ipa = window(pa).ok_or("root's window ends below a device")?;
    root.gmap
        .exclusive()
        .map(&mut root.gmap.machine(), ipa, pa, bytes, attr, READ_WRITE)
        .map_err(|_| "root's stage 2 cannot be built")
}

/// Shows root frames that were granted to it.
pub(crate) fn show_ram(root: &Vm, pa: Pa, bytes: u64) -> Result<(), &'static str> {
    show(root, pa, bytes, Attr::Normal)
}

/// Returns the doorbell's frame, once there is one.
pub(crate) fn doorbell() -> Option<Pa> {
    let at = DOORBELL.load(Ordering::Relaxed);
    (at != 0).then(|| memory::pa_of(at))
}

/// Shows root the pages it shares with core about `vm`.
pub(crate) fn share(vm: &Vm) -> Result<(), &'static str> {
    let root = guest::by_slot(ROOT_SLOT).ok_or("there is no root")?;
    show(root, vm.shared_pa, VM_SHARED_BYTES as u64, Attr::Normal)
}

/// Takes those pages away again.
pub(crate) fn unshare(shared: Pa) {
    let Some(root) = guest::by_slot(ROOT_SLOT) else {
        return;
    };
    if let Some(ipa) = window(shared) {
        root.gmap
            .exclusive()
            .unmap(&mut root.gmap.machine(), ipa, VM_SHARED_BYTES as u64)
            .expect("the pages were mapped as one block when the VM was made");
    }
}

/// Where a guest's RAM begins is where root's does.
const _: () = assert!(map::RAM_BASE == ROOT_RAM_IPA);
