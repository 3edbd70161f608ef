//! Exits as fast as it can, on every vCPU: `kind=` hvc (or nothing), gic, uart, unclaimed,
//! sysreg, sgi, wfi, wfi_pending (which does not wait), wfe, wfit, wfet (where there are such), undef, excl (exclusives on 64
//! pages, whoever else may want them), level_uart and level_timer (a line that never goes down:
//! taken and ended again and again), edge (an SPI that each vCPU makes pending for the next);
//! `n=` rounds of a thousand, or for ever.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "it runs instructions made at run time")]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::map::{GICD_BASE, UART_BASE, UART_INTID};
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

/// Waits for a timer interrupt and takes it.
fn wait_for_interrupt() {
    Timer::Virtual.set_compare(timer::now() + timer::ticks(20_000));
    Timer::Virtual.set_control(timer::ENABLE);
    cpu::wfi();
    cpu::unmask_irq();
    cpu::isb();
    cpu::mask_irq();
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

/// UARTDR, UARTIMSC and its bit TXIM.
const UARTDR: u64 = 0x0;
const UARTIMSC: u64 = 0x38;
const TXIM: u64 = 1 << 5;
/// The first of the SPIs that nothing is wired to.
const SPI: u32 = 40;

/// Has the UART say for ever that it could send more.
fn raise_uart() {
    gic::leave_lines_high();
    gic::route(UART_INTID, 0);
    gic::set_bit(gic::ISENABLER, UART_INTID);
    mem::write32(UART_BASE + UARTDR, u64::from(b'\n'));
    mem::write32(UART_BASE + UARTIMSC, TXIM);
    cpu::unmask_irq();
}

/// Lets a timer's deadline pass and never sets another.
fn raise_timer() {
    gic::leave_lines_high();
    Timer::Virtual.set_compare(timer::now());
    Timer::Virtual.set_control(timer::ENABLE);
    cpu::unmask_irq();
}

/// Has the next vCPU interrupted by an SPI that is this one's to raise.
fn prepare_edges() {
    let index = cpu::index();
    let next = (index + 1) % machine::cpus();
    gic::route(SPI + index as u32, next);
    // Edge-triggered, all of them: the upper of an SPI's two bits.
    mem::write32(
        GICD_BASE + gic::ICFGR + u64::from(SPI / 16) * 4,
        0xaaaa_aaaa,
    );
    gic::set_bit(gic::ISENABLER, SPI + index as u32);
    cpu::unmask_irq();
}

extern "C" fn storm() {
    mmu::enable();
    gic::init_cpu();
    gic::set_bit(gic::ISENABLER, Timer::Virtual.intid());
    match kind() {
        "level_uart" => raise_uart(),
        "level_timer" => raise_timer(),
        "edge" => prepare_edges(),
        "wfi_pending" => {
            // Its interrupt stays masked in DAIF and is never taken.
            Timer::Virtual.set_compare(timer::now());
            Timer::Virtual.set_control(timer::ENABLE);
        }
        _ => {}
    }
    let exit: fn() = match kind() {
        "level_uart" | "level_timer" => cpu::yield_now,
        "edge" => || gic::set_bit(gic::ISPENDR, SPI + cpu::index() as u32),
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
        "wfi_pending" => cpu::wfi,
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
