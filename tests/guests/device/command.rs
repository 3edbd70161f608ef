//! What the commands do.
#![expect(unsafe_code, reason = "a load that no syndrome describes")]

use core::arch::asm;
use guest_abi::dma;
use guest_abi::map::PCI_ECAM_BASE;
use payload::{Fault, catch, mem, psci, timer};

/// Runs a command; `None` if there is none of this name.
pub(crate) fn run(name: &str, [a, b, c]: [u64; 3]) -> Option<Result<u64, Fault>> {
    let config = PCI_ECAM_BASE + (a << 15) + b;
    let places = || (a..a + b).step_by(c.max(4) as usize);
    Some(match name {
        "cr" => catch(|| mem::read32(config)),
        "cw" => catch(|| mem::write32(config, c)).map(|()| 0),
        "ch" => catch(|| mem::write16(config, c)).map(|()| 0),
        "r" => catch(|| mem::read32(a)),
        "w" => catch(|| mem::write32(a, b)).map(|()| 0),
        "rb" => catch(|| mem::read8(a)),
        "wb" => catch(|| mem::write8(a, b)).map(|()| 0),
        "rd" => catch(|| pair(a)),
        "fill" => catch(|| places().for_each(|at| mem::write32(at, word(at)))).map(|()| 0),
        "zero" => catch(|| (a..a + b).step_by(8).for_each(|at| mem::write64(at, 0))).map(|()| 0),
        "check" => catch(|| places().filter(|at| mem::read32(*at) != word(*at)).count() as u64),
        "size" => catch(|| size(PCI_ECAM_BASE + (a << 15) + 0x10 + b * 4)),
        "bench" => {
            let count = places().count() as u64;
            let start = timer::now();
            let touched = catch(|| places().for_each(|at| mem::write32(at, word(at))));
            let ticks = timer::now() - start;
            touched.map(|()| payload::stats::insns_per_op(ticks, timer::hz(), count.max(1)))
        }
        "declare" => Ok(each_page(dma::DMA_DECLARE, a, b)),
        "undeclare" => Ok(each_page(dma::DMA_UNDECLARE, a, b)),
        "store" => {
            let start = timer::now();
            let stored = catch(|| mem::write16(config, c));
            let ticks = timer::now() - start;
            stored.map(|()| payload::stats::insns_per_op(ticks, timer::hz(), 1))
        }
        "when" => {
            let start = timer::now();
            let loaded = catch(|| mem::read32(a));
            let ticks = timer::now() - start;
            loaded.map(|_| ticks * 1000 / timer::hz())
        }
        "loop" => {
            let mut faults = 0;
            while crate::key().is_none() {
                faults += u64::from(catch(|| mem::read32(a)).is_err());
            }
            Ok(faults)
        }
        _ => return None,
    })
}

/// Makes a call about `pages` pages until all are done; gives how many, or the refusal.
fn each_page(function: u32, at: u64, pages: u64) -> u64 {
    let mut done = 0;
    while done < pages {
        let answer = psci::hvc(function, at + done * 4096, pages - done, 0);
        match u64::try_from(answer) {
            Ok(more) => done += more,
            Err(_) => return answer.cast_unsigned(),
        }
    }
    done
}

/// The word that `fill` puts at `at`.
const fn word(at: u64) -> u64 {
    (at ^ at >> 32).wrapping_mul(0x9e37_79b1) & 0xffff_ffff
}

/// Returns the size that the BAR at `register` says, and leaves it as it was.
fn size(register: u64) -> u64 {
    let before = mem::read32(register);
    let above = mem::read32(register + 4);
    mem::write32(register, 0xffff_ffff);
    let low = mem::read32(register);
    let wide = low & 0b111 == 0b100;
    let mut mask = low & !0xf | 0xffff_ffff_0000_0000;
    if wide {
        mem::write32(register + 4, 0xffff_ffff);
        mask = low & !0xf | mem::read32(register + 4) << 32;
        mem::write32(register + 4, above);
    }
    mem::write32(register, before);
    if low & !0xf == 0 && !wide {
        return 0;
    }
    mask.wrapping_neg()
}

fn pair(at: u64) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: a load changes no Rust object; what it raises is what `catch` is for.
    unsafe {
        asm!("ldp {0}, {1}, [{2}]", out(reg) low, out(reg) high, in(reg) at, options(nostack));
    }
    low ^ high
}
