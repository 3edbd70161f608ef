//! Says hello, makes one exit of each kind, and says what it saw.
#![no_std]
#![no_main]

use guest_abi::map::{GICD_BASE, UART_BASE};
use payload::sysreg::ID_AA64PFR0_EL1;
use payload::timer::{self, Timer};
use payload::{catch, cpu, gic, guest, machine, mem, println, psci};

guest!(main);

/// An address of the map where no device is.
const UNCLAIMED: u64 = 0x0b00_0000;

fn main() -> ! {
    println!("HELLO from EL1");
    let (tree, bytes) = machine::device_tree();
    println!("device_tree {tree:#x} {bytes} bytes");
    println!("ram_bytes {:#x}", machine::ram_bytes());
    println!("cpus {}", machine::cpus());
    println!("bootargs \"{}\"", machine::bootargs());

    println!(
        "hypercall SMCCC_VERSION {:#x}",
        psci::hvc(psci::SMCCC_VERSION, 0, 0, 0)
    );
    println!(
        "hypercall PSCI_VERSION {:#x}",
        psci::hvc(psci::VERSION, 0, 0, 0)
    );
    println!(
        "gic GICD_IIDR {:#x}",
        mem::read32(GICD_BASE + gic::GICD_IIDR)
    );
    println!("uart UARTFR {:#x}", mem::read32(UART_BASE + 0x18));
    match catch(|| mem::read32(UNCLAIMED)) {
        Ok(value) => println!("unclaimed {value:#x}"),
        Err(fault) => println!("unclaimed fault esr {:#x}", fault.esr),
    }
    println!("sysreg ID_AA64PFR0_EL1 {:#x}", ID_AA64PFR0_EL1.read());

    let fresh = || machine::fresh_blocks();
    let places = fresh().take(2).chain(fresh().rev().take(2));
    let mut zero = 0;
    let mut kept = 0;
    for at in places.flat_map(|block| [block, block + 0x1000, block + 0x1f_f000]) {
        zero += u64::from(mem::read64(at) == 0);
        mem::write64(at, !at);
        kept += u64::from(mem::read64(at) == !at);
    }
    println!("first_touch zero {zero} kept {kept} of 12");

    gic::init_distributor();
    gic::init_cpu();
    wait_for_timer();
    cpu::unmask_irq();
    gic::send_sgi(3, 1);
    let seen = payload::smp::wait(|| gic::count(0, 3) == 1);
    println!("sgi_self {seen}");
    println!("BYE");
    psci::system_off()
}

/// Sleeps a millisecond, which takes an interrupt to end.
fn wait_for_timer() {
    let timer = Timer::Virtual;
    gic::set_bit(gic::ISENABLER, timer.intid());
    let before = timer::now();
    timer.set_compare(before + timer::ticks(1_000_000));
    timer.set_control(timer::ENABLE);
    while timer.control() & timer::ISTATUS == 0 {
        cpu::wfi();
    }
    cpu::unmask_irq();
    let slept = timer::now() - before;
    let ran = payload::smp::wait(|| gic::count(0, timer.intid()) == 1);
    cpu::mask_irq();
    println!("wfi_timer ticks {slept} interrupt {ran}");
}
