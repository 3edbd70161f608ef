//! A root that is no Hermit: it runs the one guest it carries, and prints what that prints.
//!
//! With it core and its guests are tested without network, control port and disk. Boot
//! arguments of the machine: `vms=` how many at once (1), `vcpus=` of each (1), `mib=` RAM of
//! each (128), `repeat=` times one after the other (1), `guest=migrate`, `timers`,
//! `lock`, `turns`, `conformance` or `paravirt` instead of the guest that it was built around, `flags=` what the VMs are to do without
//! (`guest_abi::core_call::VM_FLAGS`, 0), `nap=` how many microseconds it sleeps while nothing is to be done (200), `args=` the guest's own boot
//! arguments with commas for spaces, `device=F[:P[:M:B]]` a PCI function for VM 0 (all hexadecimal:
//! requester ID, profile, and for profile 2 the function that is its memory and the BAR with its
//! registers), `probe=` physical addresses that root tries to reach before, while and after a VM has its device, `resets=` how often that is reset while the VM runs, `pin=1` moves vCPU 0 of each from core to core all the time, `cores=`
//! the cores that all vCPUs may run on, bit by bit (0: any), `serror=N` makes N SErrors pending in vCPU 0 of each, one after the other. A line of the guest in VM n begins with `vm<n>| `.
#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod console;
mod device;
mod heap;
mod pin;
mod probe;
mod tree;
mod vm;

use payload::timer::{self, Timer};
use payload::{cpu, gic, println, psci};

payload::guest!(main);

/// Most VMs at once.
const VMS: usize = 8;

/// What the machine's boot arguments ask for.
struct Orders {
    vms: u64,
    vcpus: u64,
    mib: u64,
    repeat: u64,
    flags: u64,
    nap_us: u64,
    args: alloc::string::String,
    guest: &'static [u8],
    device: Option<device::Order>,
    resets: u64,
    pin: bool,
    cores: u64,
    serrors: u64,
    probe: [Option<u64>; 8],
}

fn main() -> ! {
    let boot = calls::root_boot();
    let words = core::str::from_utf8(&boot.bootargs[..boot.bootargs_len as usize]).unwrap_or("");
    let words = words.trim_end_matches('\0');
    println!("DIRECT root, machine boot arguments \"{words}\"");
    let word = |key: &str| {
        words
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key, default| word(key).and_then(|n| n.parse().ok()).unwrap_or(default);
    let name = word("guest").unwrap_or("");
    let Some(guest) = vm::guest(name) else {
        println!("DIRECT carries no guest {name}");
        psci::system_off()
    };
    let pin = number("pin", 0) != 0;
    if pin && boot.cores < 2 {
        println!("SKIP one core: nothing can be moved from core to core");
        psci::system_off()
    }
    let orders = Orders {
        guest,
        vms: number("vms", 1).min(VMS as u64),
        vcpus: number("vcpus", 1),
        mib: number("mib", 128),
        repeat: number("repeat", 1),
        flags: number("flags", 0),
        nap_us: number("nap", 200),
        args: word("args").unwrap_or("").replace(',', " "),
        device: word("device").and_then(device::Order::read),
        resets: number("resets", 0),
        pin,
        cores: number("cores", 0),
        serrors: number("serror", 0),
        probe: probe::read(word("probe").unwrap_or("")),
    };
    gic::init_distributor();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    let before = calls::host_info();
    probe::all(&orders.probe, "before");
    for round in 1..=orders.repeat {
        let mark = heap::mark();
        run_once(&orders);
        heap::release(mark);
        let after = calls::host_info();
        println!(
            "DIRECT round {round} done, free_bytes {:#x} then {:#x}",
            before.free_bytes, after.free_bytes
        );
        probe::all(&orders.probe, "after");
    }
    println!("DIRECT done");
    psci::system_off()
}

fn run_once(orders: &Orders) {
    let mut vms = [const { None }; VMS];
    for (n, place) in vms.iter_mut().take(orders.vms as usize).enumerate() {
        match vm::Vm::start(n, orders) {
            Ok(vm) => *place = Some(vm),
            Err((what, status)) => println!("DIRECT vm{n}: {what}: {status:?}"),
        }
    }
    probe::all(&orders.probe, "while");
    let mut watch = orders
        .device
        .map(|order| device::Watch::new(order, orders.resets));
    let mut pin = pin::Pin::new();
    let mut serrors = orders.serrors;
    while vms.iter().any(Option::is_some) {
        let mut news = false;
        if orders.pin {
            news = pin.step(&vms);
        }
        if let Some(watch) = &mut watch {
            watch.look();
        }
        if serrors > 0 {
            serrors -= 1;
            vms.iter().flatten().for_each(|vm| vm.serror(serrors));
        }
        for place in &mut vms {
            if let Some(vm) = place {
                news |= vm.console();
                if vm.is_over() {
                    vm.console();
                    vm.destroy();
                    *place = None;
                }
            }
        }
        if !news {
            nap(orders.nap_us);
        }
    }
}

/// Sleeps for so many microseconds, so that a guest can have the core.
///
/// The interrupt has to be taken: while it is pending, WFI does not wait, and root comes
/// before every guest of its core.
fn nap(us: u64) {
    let timer = Timer::Virtual;
    let before = gic::taken(0);
    timer.set_compare(timer.now() + timer::ticks(us * 1_000));
    timer.set_control(timer::ENABLE);
    while gic::taken(0) == before {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}
