//! What is outside RAM: an external abort above it, nothing below it.

use guest_abi::map::{RAM_BASE, UART_BASE};
use payload::{Fault, TestResult, catch, expect, expect_eq, fail, its, machine, mem, println};

/// Addresses above RAM where the map has nothing, with and without the MMU.
fn outside() -> impl Iterator<Item = u64> {
    let end = RAM_BASE + machine::ram_bytes();
    [
        end,
        end + 0x1000,
        end + 0x20_0000 - 8,
        end + (1 << 30),
        (255 << 30) + 0x1238,
    ]
    .into_iter()
}

fn aborted(at: u64, result: Result<u64, Fault>, kind: &str) -> TestResult {
    match result {
        Ok(value) => fail!("{kind} at {at:#x} worked, {value:#x}"),
        Err(fault) => {
            expect!(
                fault.is_external_data_abort(),
                "{kind} at {at:#x}: {fault:x?}"
            );
            expect_eq!(fault.far, at, "{kind}");
        }
    }
    Ok(())
}

pub(crate) fn data() -> TestResult {
    for at in outside() {
        aborted(at, catch(|| mem::read8(at)), "ldrb")?;
        aborted(at, catch(|| mem::read16(at)), "ldrh")?;
        aborted(at, catch(|| mem::read32(at)), "ldr w")?;
        aborted(at, catch(|| mem::read64(at)), "ldr x")?;
        let store = |write: fn(u64, u64)| {
            catch(|| {
                write(at, 0x55);
                0
            })
        };
        aborted(at, store(mem::write8), "strb")?;
        aborted(at, store(mem::write32), "str w")?;
        aborted(at, store(mem::write64), "str x")?;
    }
    Ok(())
}

fn fetch_aborted(at: u64) -> TestResult {
    match catch(|| mem::call_nowhere(at)) {
        Ok(()) => fail!("there is code at {at:#x}"),
        Err(fault) => {
            expect_eq!(fault.class(), Fault::INSTRUCTION_ABORT, "{fault:x?}");
            expect_eq!(fault.status(), Fault::EXTERNAL, "{fault:x?}");
            expect_eq!(fault.far, at);
            expect_eq!(fault.elr, at);
        }
    }
    Ok(())
}

pub(crate) fn fetch() -> TestResult {
    outside()
        .map(|at| at & !3)
        .chain([0x0b00_0000])
        .try_for_each(fetch_aborted)?;
    if machine::on_skete() {
        // Plain QEMU has flash at 0, and fetches from device registers.
        fetch_aborted(0)?;
        fetch_aborted(UART_BASE)?;
    }
    Ok(())
}

/// Skete's promise, not the architecture's: no device below RAM reads as zero.
pub(crate) fn hole() -> TestResult {
    if !machine::on_skete() {
        println!("# hole_below_ram: plain QEMU aborts");
        return Ok(());
    }
    const ECAM: u64 = 0x3fff_fff8;
    // Flash, between GICD and ITS, above the redistributors, the gap below PCIe, ECAM.
    for at in [
        0x0,
        0x1000,
        0x0801_0000,
        0x0a80_0000,
        0x0b00_0000,
        0x3eff_0000,
        ECAM,
    ] {
        if at == ECAM && its::is_there() {
            // A VM with a device has configuration space: ones, where no function is.
            expect_eq!(catch(|| mem::read32(at)), Ok(0xffff_ffff));
            continue;
        }
        for round in 0..2 {
            let result = catch(|| {
                (
                    mem::read8(at),
                    mem::read16(at),
                    mem::read32(at),
                    mem::read64(at),
                )
            });
            expect_eq!(result, Ok((0, 0, 0, 0)), "at {at:#x} round {round}");
            let result = catch(|| {
                mem::write8(at, 0xff);
                mem::write32(at, 0xffff_ffff);
                mem::write64(at, u64::MAX);
            });
            expect_eq!(result, Ok(()), "at {at:#x}");
        }
    }
    Ok(())
}
