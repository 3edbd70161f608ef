//! S1: waits with a deadline (WFIT, WFET): they end, at their deadline and not at once.
#![expect(unsafe_code, reason = "it runs instructions made at run time")]

use payload::sysreg::ID_AA64ISAR2_EL1;
use payload::timer::{Timer, ticks};
use payload::{TestResult, expect, fail, machine, println, stub};

/// WFET x0 and WFIT x0.
const WFET: u32 = 0xd503_1000;
const WFIT: u32 = 0xd503_1020;
const WAIT_NS: u64 = 2_000_000;
/// Late by this much at the most, when nobody else is there to take the core.
const LATE_NS: u64 = 500_000_000;

pub(crate) fn deadlines() -> TestResult {
    if ID_AA64ISAR2_EL1.read() & 15 == 0 {
        println!("# no WFxT");
        return Ok(());
    }
    for (name, wait) in [("WFIT", WFIT), ("WFET", WFET)] {
        for ns in [0, 1_000, 100_000, WAIT_NS] {
            let deadline = Timer::Virtual.now() + ticks(ns);
            let mut waits = 0;
            while Timer::Virtual.now() < deadline {
                waits += 1;
                // SAFETY: A wait changes nothing.
                if let Err(fault) = unsafe { stub::execute(&[wait], deadline) } {
                    fail!("{name}: {fault:x?}");
                }
            }
            let late = Timer::Virtual.now() - deadline;
            expect!(late < ticks(LATE_NS), "{name} {ns} ns: {late} ticks late");
            // Either may end early; on Skete WFIT gives the core away until it is time.
            if machine::on_skete() && wait == WFIT && ns == WAIT_NS {
                expect!(waits < 100, "{name}: {waits} waits in {ns} ns");
            }
        }
        // Deadlines that have passed, by a little and by half of all there is.
        for back in [1, 1 << 62] {
            let before = Timer::Virtual.now();
            // SAFETY: As above.
            if let Err(fault) = unsafe { stub::execute(&[wait], before.wrapping_sub(back)) } {
                fail!("{name}: {fault:x?}");
            }
            expect!(
                Timer::Virtual.now() - before < ticks(LATE_NS),
                "{name} {back}"
            );
        }
    }
    Ok(())
}
