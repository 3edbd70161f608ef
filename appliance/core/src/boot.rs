//! From the firmware's device tree to a machine core knows, and its other cores.
#![expect(unsafe_code, reason = "reads the device tree in the linear map")]

use boot_entry::{CPUS_MAX, PHYSMAP};
use boot_info::{BootInfo, Conduit, Range};
use image_format::Bundle;
use spin::Once;

use crate::console::{self, println};
use crate::{gic, hw, layout, memory, per_cpu, physmap, timer};

/// Where QEMU puts the tree when it loads an ELF and passes nothing in x0.
const TREE_FALLBACK: u64 = 0x4000_0000;

/// What boot found out and the rest of core builds on.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) info: &'static BootInfo,
    /// Where the bundle of parts lies, and how long it is; none if there is none.
    pub(crate) bundle: Option<Range>,
}

/// Reads the tree, builds the final address space and the frame pool.
pub(crate) fn machine(tree_pa: u64, image_pa: u64) -> Machine {
    physmap::init(image_pa).expect("the pool holds the image's tables");
    let tree_pa = if tree_pa == 0 { TREE_FALLBACK } else { tree_pa };
    let tree = tree(tree_pa);
    // First a voice, so that what is wrong with the tree can be said.
    if let Some(uart) = boot_info::console(tree) {
        physmap::add_device(uart.registers).expect("the pool holds one more table");
        console::init(PHYSMAP + uart.registers.pa);
    }
    let info = info(tree);
    let image_bytes = layout::image_end() - layout::image_start();
    let tree_range = Range::new(tree_pa, tree.len() as u64).expect("the tree is mapped");
    physmap::finish(info).expect("the pool holds the tables of RAM and devices");
    if let Some(uart) = info.uart {
        console::init(PHYSMAP + uart.registers.pa);
    }

    let bundle = bundle(info, image_pa + image_bytes);
    let image_end = bundle.map_or(image_pa + image_bytes, Range::end);
    let image = Range::new(image_pa, image_end - image_pa).expect("the image is mapped");
    memory::init(
        info,
        image,
        &[tree_range, info.initrd.unwrap_or(tree_range)],
    );
    gic::init(&info.gic);
    if let Some(rtc) = info.rtc {
        read_clock(rtc.registers);
    }
    Machine { info, bundle }
}

/// Reads the tree. What it says is large: it is kept in one place, and not on the stack.
#[inline(never)]
fn info(tree: &[u8]) -> &'static BootInfo {
    static INFO: Once<BootInfo> = Once::new();
    match BootInfo::from_fdt(tree) {
        Ok(info) => INFO.call_once(|| info),
        Err(error) => halt(format_args!("{error}")),
    }
}

/// Reads the machine's PL031 once, before it becomes root's; guests' clocks start from it.
fn read_clock(registers: Range) {
    if physmap::add_device(registers).is_err() {
        println!(
            "the clock at {:#x} cannot be mapped: guests start in 1970",
            registers.pa
        );
        return;
    }
    // SAFETY: RTCDR, offset 0, of the PL031's frame, mapped as device memory just now.
    let seconds = unsafe { core::ptr::read_volatile((PHYSMAP + registers.pa) as *const u32) };
    timer::set_wall_clock(seconds);
}

fn tree(pa: u64) -> &'static [u8] {
    let head = Range::new(pa, 8).expect("the tree lies below 2^48");
    physmap::add_window(head).expect("the pool holds the window's tables");
    // SAFETY: eight bytes that were just mapped; the firmware wrote them and is gone.
    let header = unsafe { core::ptr::read_volatile((PHYSMAP + pa) as *const [u8; 8]) };
    let bytes = match boot_info::tree_bytes(header) {
        Ok(bytes) => bytes,
        Err(error) => halt(format_args!("{error}")),
    };
    let whole = Range::new(pa, bytes as u64).expect("the tree lies below 2^48");
    physmap::add_window(whole).expect("the pool holds the window's tables");
    // SAFETY: the bytes are mapped, initialised by the firmware, and nobody writes them:
    // `memory::init` keeps their frames out of the pool.
    unsafe { core::slice::from_raw_parts((PHYSMAP + pa) as *const u8, bytes) }
}

/// Finds the bundle that mkimage put behind the image.
fn bundle(info: &BootInfo, pa: u64) -> Option<Range> {
    let bank = info.ram.iter().find(|bank| bank.contains(pa))?;
    let bytes = bank.end() - pa;
    // SAFETY: RAM behind the image is mapped and not yet the pool's; what is no bundle is
    // refused.
    let rest = unsafe { core::slice::from_raw_parts((PHYSMAP + pa) as *const u8, bytes as usize) };
    let bundle = Bundle::parse(rest).ok()?;
    Range::new(pa, bundle.total_bytes() as u64)
}

/// Starts every other core and returns how many there are with this one. Nobody waits for
/// them: a core takes part from when it says so.
pub(crate) fn start_cores(info: &BootInfo, image_pa: u64) -> usize {
    let me = per_cpu::this();
    let mpidr = |cpu: &per_cpu::PerCpu| cpu.mpidr.load(core::sync::atomic::Ordering::Relaxed);
    if info.psci != Some(Conduit::Smc) {
        if info.cpus.len() > 1 {
            println!("no PSCI by SMC: running on one core");
        }
        return 1;
    }
    let entry = layout::secondary() - layout::image_start() + image_pa;
    let mut index = 1;
    for target in info.cpus.iter() {
        if target == mpidr(me) {
            continue;
        }
        if index == CPUS_MAX {
            println!("more than {CPUS_MAX} cores: the rest stay off");
            break;
        }
        if let Err(error) = smccc::psci::cpu_on::<smccc::Smc>(target, entry, index as u64) {
            println!("core {index} (mpidr {target:#x}) did not start: {error:?}");
            continue;
        }
        index += 1;
    }
    index
}

/// Says why Skete cannot run on this machine, and waits for ever.
pub(crate) fn halt(why: core::fmt::Arguments<'_>) -> ! {
    println!("cannot start: {why}");
    println!("halted");
    loop {
        hw::wfi();
    }
}
