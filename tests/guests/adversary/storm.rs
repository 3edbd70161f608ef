//! Exits as fast as it can, on every vCPU: `kind=` hvc (or nothing), gic, uart, unclaimed,
//! sysreg, sgi, wfi, wfe; `n=` rounds of a thousand, or for ever.
#![no_std]
#![no_main]

use guest_abi::map::{GICD_BASE, UART_BASE};
use payload::sysreg::ID_AA64PFR0_EL1;
use payload::timer::{self, Timer};
use payload::{catch, cpu, gic, machine, mem, println, psci, smp};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY storm {} cpus {}", kind(), machine::cpus());
    gic::init_distributor();
    smp::start_all(storm);
    storm();
    println!("DONE");
    psci::system_off()
}

fn kind() -> &'static str {
    machine::argument_text("kind").unwrap_or("hvc")
}

/// Waits for a timer interrupt that stays masked in DAIF and is due soon.
fn wait_for_interrupt() {
    Timer::Virtual.set_compare(timer::now() + timer::ticks(1_000));
    cpu::wfi();
}

extern "C" fn storm() {
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    Timer::Virtual.set_control(timer::ENABLE);
    let exit: fn() = match kind() {
        "gic" => || {
            let _ = mem::read32(GICD_BASE + gic::GICD_IIDR);
        },
        "uart" => || {
            let _ = mem::read32(UART_BASE + 0x18);
        },
        "unclaimed" => || {
            let _ = catch(|| mem::read32(0x0b00_0000));
        },
        "sysreg" => || {
            let _ = core::hint::black_box(ID_AA64PFR0_EL1.read());
        },
        "sgi" => || gic::send_sgi_to_others(1),
        "wfi" => wait_for_interrupt,
        "wfe" => cpu::wfe,
        _ => psci::hvc_bare,
    };
    let limit = machine::argument("n");
    for round in 0.. {
        if limit.is_some_and(|limit| round >= limit) {
            return;
        }
        for _ in 0..1000 {
            exit();
        }
    }
}
