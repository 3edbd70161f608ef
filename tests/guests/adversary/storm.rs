//! Exits as fast as it can, on every vCPU: `kind=` hvc (or nothing), gic, uart, unclaimed,
//! sysreg, sgi, wfi, wfe, wfit, wfet (where there are such), undef, excl (exclusives on 64
//! pages, whoever else may want them); `n=` rounds of a thousand, or for ever.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "it runs instructions made at run time")]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::map::{GICD_BASE, UART_BASE};
use payload::sysreg::ID_AA64PFR0_EL1;
use payload::timer::{self, Timer};
use payload::{catch, cpu, gic, machine, mem, mmu, println, psci, smp, stub};

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

/// What the vCPUs fight for.
static PAGES: [Page; 64] = [const { Page([const { AtomicU64::new(0) }; 512]) }; 64];

#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

/// Raises a word of every page; without LSE that is a load and a store exclusive.
fn exclusives() {
    for page in &PAGES {
        page.0[cpu::index()].fetch_add(1, Ordering::Relaxed);
        page.0[511].fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs one instruction that takes a deadline in x0: a microsecond from now.
fn until_soon(instruction: u32) {
    // SAFETY: WFIT and WFET wait, or are undefined, which is stepped over.
    let _ = unsafe { stub::execute(&[instruction], timer::now() + timer::ticks(1_000)) };
}

extern "C" fn storm() {
    mmu::enable();
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
        // WFET x0, WFIT x0 (DDI 0487, FEAT_WFxT).
        "wfet" => || until_soon(0xd503_1000),
        "wfit" => || until_soon(0xd503_1020),
        "undef" => || {
            // HVC's neighbour without a meaning: UDF.
            // SAFETY: it is undefined, which is stepped over.
            let _ = unsafe { stub::execute(&[0], 0) };
        },
        "excl" => exclusives,
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
