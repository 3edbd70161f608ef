//! The GIC as one vCPU sees it.

use guest_abi::map::{GICD_BASE, INTIDS};
use payload::gic::{self, SGI_BASE};
use payload::stats::splitmix64;
use payload::sysreg::{
    ICC_EOIR1_EL1, ICC_HPPIR1_EL1, ICC_IAR1_EL1, ICC_PMR_EL1, ICC_RPR_EL1, ICC_SRE_EL1,
};
use payload::{TestResult, catch, cpu, expect, expect_eq, machine, mem, smp, timer};

/// Reads of IAR before giving up.
const PATIENCE: u64 = 100_000;
const QUIET_NS: u64 = 50_000;
/// SPIs with no device behind them in the map.
const A: u32 = 100;
const B: u32 = 101;

/// Makes the GIC ready, interrupts masked, and A and B enabled here with priority 0xa0.
fn prepare() {
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    for intid in [A, B] {
        gic::set_bit(gic::ICPENDR, intid);
        gic::set_bit(gic::ICACTIVER, intid);
        gic::route(intid, 0);
        // Edge-triggered, so that ISPENDR is what makes it pending and acknowledging ends that.
        let at = GICD_BASE + gic::ICFGR + u64::from(intid / 16) * 4;
        mem::write32(at, mem::read32(at) | 2 << (intid % 16 * 2));
        gic::set_bit(gic::ISENABLER, intid);
    }
}

/// Lets interrupts in until vCPU 0 has taken `n` more than `before`.
fn take(before: u64, n: u64) -> bool {
    cpu::unmask_irq();
    let done = smp::wait(|| gic::taken(0) >= before + n);
    cpu::mask_irq();
    done
}

/// Lets interrupts in for a while and returns how many came.
fn come() -> u64 {
    let before = gic::taken(0);
    cpu::unmask_irq();
    timer::spin(QUIET_NS);
    cpu::mask_irq();
    gic::taken(0) - before
}

pub(crate) fn identification() -> TestResult {
    prepare();
    // GICv3 (IHI 0069, GICD_PIDR2.ArchRev).
    expect_eq!(mem::read32(GICD_BASE + gic::PIDR2) >> 4 & 15, 3);
    let lines = (mem::read32(GICD_BASE + gic::GICD_TYPER) & 31) + 1;
    expect!(lines * 32 >= u64::from(INTIDS), "{lines}");
    let cpus = machine::cpus();
    for index in 0..cpus {
        let typer = mem::read64(gic::redistributor(index) + 8);
        expect_eq!(typer >> 32, index as u64, "affinity of {index}");
        expect_eq!(typer >> 8 & 0xffff, index as u64, "number of {index}");
        expect_eq!(typer >> 4 & 1, u64::from(index + 1 == cpus), "last");
        let halves = mem::read32(gic::redistributor(index) + 8)
            | mem::read32(gic::redistributor(index) + 12) << 32;
        expect_eq!(halves, typer, "in two halves, {index}");
    }
    expect_eq!(ICC_SRE_EL1.read() & 1, 1);
    expect_eq!(ICC_RPR_EL1.read() & 0xff, 0xff);
    expect_eq!(ICC_HPPIR1_EL1.read(), 1023);
    expect_eq!(ICC_IAR1_EL1.read(), 1023);
    Ok(())
}

pub(crate) fn read_only() -> TestResult {
    prepare();
    let rd = gic::redistributor(0);
    // GICD_TYPER, GICD_IIDR, GICD_PIDR2; GICR_IIDR, GICR_TYPER, GICR_PIDR2.
    let constants = [
        GICD_BASE + 4,
        GICD_BASE + 8,
        GICD_BASE + gic::PIDR2,
        rd + 4,
        rd + 8,
        rd + gic::PIDR2,
    ];
    let before = constants.map(mem::read32);
    for at in constants {
        expect_eq!(catch(|| mem::write32(at, 0xffff_ffff)), Ok(()), "{at:#x}");
        expect_eq!(catch(|| mem::write32(at, 0)), Ok(()), "{at:#x}");
    }
    expect_eq!(constants.map(mem::read32), before);
    // Enables of SGIs and PPIs are not in the distributor with affinity routing.
    expect_eq!(mem::read32(GICD_BASE + gic::ISENABLER), 0);
    Ok(())
}

pub(crate) fn sgi_to_self() -> TestResult {
    prepare();
    for intid in 0..16 {
        let (before, count) = (gic::taken(0), gic::count(0, intid));
        gic::send_sgi(intid, 1);
        expect!(gic::bit(gic::ISPENDR, intid), "SGI {intid}");
        expect_eq!(ICC_HPPIR1_EL1.read(), u64::from(intid));
        expect!(take(before, 1), "SGI {intid}");
        expect_eq!(gic::count(0, intid), count + 1);
        expect!(!gic::bit(gic::ISPENDR, intid), "SGI {intid}");
        expect!(!gic::bit(gic::ISACTIVER, intid), "SGI {intid}");
    }
    // By the redistributor's pending register, too.
    let before = gic::taken(0);
    gic::set_bit(gic::ISPENDR, 7);
    expect!(take(before, 1));
    // Sent twice before it is taken, it is taken once.
    gic::send_sgi(2, 1);
    gic::send_sgi(2, 1);
    expect_eq!(come(), 1);
    Ok(())
}

pub(crate) fn spi() -> TestResult {
    prepare();
    for round in 0..20 {
        let (before, count) = (gic::taken(0), gic::count(0, A));
        gic::set_bit(gic::ISPENDR, A);
        expect!(gic::bit(gic::ISPENDR, A), "round {round}");
        expect_eq!(gic::taken(0), before, "masked");
        expect!(take(before, 1), "round {round}");
        expect_eq!(gic::count(0, A), count + 1);
        expect!(!gic::bit(gic::ISPENDR, A), "round {round}");
        expect!(!gic::bit(gic::ISACTIVER, A), "round {round}");
    }
    gic::set_bit(gic::ISPENDR, A);
    gic::set_bit(gic::ICPENDR, A);
    expect!(!gic::bit(gic::ISPENDR, A));
    expect_eq!(come(), 0);
    Ok(())
}

/// G2: what becomes pending while disabled is neither taken nor lost.
pub(crate) fn pending_while_disabled() -> TestResult {
    prepare();
    gic::set_bit(gic::ICENABLER, A);
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(come(), 0, "disabled");
    expect!(gic::bit(gic::ISPENDR, A));
    let before = gic::taken(0);
    gic::set_bit(gic::ISENABLER, A);
    expect!(take(before, 1), "enabled again");
    expect_eq!(gic::nth(0, before), A);
    // Acknowledged, disabled, then ended: not stuck active.
    gic::set_bit(gic::ISPENDR, A);
    let intid = acknowledge();
    expect_eq!(intid, u64::from(A));
    gic::set_bit(gic::ICENABLER, A);
    ICC_EOIR1_EL1.write(intid);
    expect!(!gic::bit(gic::ISACTIVER, A), "ended while disabled");
    gic::set_bit(gic::ISENABLER, A);
    let before = gic::taken(0);
    gic::set_bit(gic::ISPENDR, A);
    expect!(take(before, 1), "after the end while disabled");
    Ok(())
}

/// Acknowledges what is pending, with interrupts masked; 1023 if nothing comes.
fn acknowledge() -> u64 {
    for _ in 0..PATIENCE {
        let intid = ICC_IAR1_EL1.read();
        if intid < gic::SPECIAL.start {
            return intid;
        }
        cpu::yield_now();
    }
    1023
}

pub(crate) fn priorities() -> TestResult {
    prepare();
    for (low, high) in [(A, B), (B, A)] {
        gic::set_priority(low, 0xc0);
        gic::set_priority(high, 0x40);
        let before = gic::taken(0);
        gic::set_bit(gic::ISPENDR, low);
        gic::set_bit(gic::ISPENDR, high);
        expect_eq!(ICC_HPPIR1_EL1.read(), u64::from(high));
        expect!(take(before, 2));
        expect_eq!(gic::nth(0, before), high);
        expect_eq!(gic::nth(0, before + 1), low);
    }
    // While the higher one is active, the lower one waits; while the lower one is, the
    // higher one does not.
    gic::set_priority(A, 0x40);
    gic::set_priority(B, 0xc0);
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(acknowledge(), u64::from(A));
    expect_eq!(ICC_RPR_EL1.read() & 0xff, 0x40);
    gic::set_bit(gic::ISPENDR, B);
    timer::spin(QUIET_NS);
    expect_eq!(ICC_IAR1_EL1.read(), 1023);
    ICC_EOIR1_EL1.write(A.into());
    expect_eq!(acknowledge(), u64::from(B));
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(acknowledge(), u64::from(A));
    expect!(gic::bit(gic::ISACTIVER, A));
    expect!(gic::bit(gic::ISACTIVER, B));
    ICC_EOIR1_EL1.write(A.into());
    ICC_EOIR1_EL1.write(B.into());
    expect_eq!(ICC_RPR_EL1.read() & 0xff, 0xff);
    expect!(!gic::bit(gic::ISACTIVER, A));
    expect!(!gic::bit(gic::ISACTIVER, B));
    Ok(())
}

pub(crate) fn priority_mask() -> TestResult {
    prepare();
    ICC_PMR_EL1.write(0x80);
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(come(), 0, "0xa0 is masked by 0x80");
    let before = gic::taken(0);
    ICC_PMR_EL1.write(0xf0);
    expect!(take(before, 1));
    Ok(())
}

/// An active interrupt that becomes pending again is taken after its end, not before.
pub(crate) fn active() -> TestResult {
    prepare();
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(acknowledge(), u64::from(A));
    gic::set_bit(gic::ISPENDR, A);
    expect_eq!(come(), 0, "active");
    expect!(gic::bit(gic::ISPENDR, A));
    let before = gic::taken(0);
    ICC_EOIR1_EL1.write(A.into());
    expect!(take(before, 1), "after the end");
    // Made active by register, it is not taken either.
    gic::set_bit(gic::ISACTIVER, B);
    gic::set_bit(gic::ISPENDR, B);
    expect_eq!(come(), 0, "active by ISACTIVER");
    let before = gic::taken(0);
    gic::set_bit(gic::ICACTIVER, B);
    expect!(take(before, 1), "not active any more");
    Ok(())
}

/// More at once than there are list registers.
pub(crate) fn every_spi() -> TestResult {
    prepare();
    let first = 40;
    let spis = first..INTIDS.min(220);
    for intid in spis.clone() {
        gic::route(intid, 0);
        let at = GICD_BASE + gic::ICFGR + u64::from(intid / 16) * 4;
        mem::write32(at, mem::read32(at) | 2 << (intid % 16 * 2));
        gic::set_bit(gic::ISENABLER, intid);
    }
    let counts = || spis.clone().map(|intid| gic::count(0, intid));
    let total = || counts().map(u64::from).sum::<u64>();
    for round in 0..3 {
        let (before, taken) = (total(), gic::taken(0));
        for intid in spis.clone() {
            gic::set_bit(gic::ISPENDR, intid);
        }
        let n = u64::from(spis.end - first);
        expect!(take(taken, n), "round {round}: {}", gic::taken(0) - taken);
        expect_eq!(total() - before, n, "round {round}");
        let (least, most) = (counts().skip(80).min(), counts().skip(80).max());
        expect_eq!(least, most, "round {round}");
    }
    expect_eq!(come(), 0);
    gic::init_distributor();
    Ok(())
}

/// G2: more active ones than list registers, and some of them ended while they have none.
pub(crate) fn more_active_than_registers() -> TestResult {
    /// As many as no GIC has list registers, from here on.
    const FIRST: u32 = 110;
    const ACTIVE: u32 = 24;
    /// Taken one inside the other, by rising priority.
    const NESTED: [(u32, u8); 6] = [
        (200, 0xc0),
        (201, 0xa0),
        (202, 0x80),
        (203, 0x60),
        (204, 0x40),
        (205, 0x20),
    ];
    prepare();
    for (intid, priority) in NESTED {
        gic::route(intid, 0);
        let at = GICD_BASE + gic::ICFGR + u64::from(intid / 16) * 4;
        mem::write32(at, mem::read32(at) | 2 << (intid % 16 * 2));
        gic::set_priority(intid, priority);
        gic::set_bit(gic::ISENABLER, intid);
    }
    for round in 0..4 {
        for intid in FIRST..FIRST + ACTIVE {
            gic::route(intid, 0);
            gic::set_priority(intid, 0x10);
            gic::set_bit(gic::ISACTIVER, intid);
        }
        for (intid, priority) in NESTED {
            gic::set_bit(gic::ISPENDR, intid);
            expect_eq!(acknowledge(), u64::from(intid), "round {round}");
            expect_eq!(ICC_RPR_EL1.read() & 0xff, u64::from(priority));
        }
        for (intid, priority) in NESTED.into_iter().rev() {
            expect_eq!(ICC_RPR_EL1.read() & 0xff, u64::from(priority));
            if round % 2 == 0 {
                // Looking brings a hypervisor's list registers up to date; not looking does not.
                expect!(gic::bit(gic::ISACTIVER, intid), "{intid} round {round}");
            }
            ICC_EOIR1_EL1.write(intid.into());
            if round % 2 == 0 {
                expect!(!gic::bit(gic::ISACTIVER, intid), "{intid} round {round}");
            }
        }
        for (intid, _) in NESTED {
            expect!(!gic::bit(gic::ISACTIVER, intid), "{intid} round {round}");
        }
        expect_eq!(ICC_RPR_EL1.read() & 0xff, 0xff);
        for intid in FIRST..FIRST + ACTIVE {
            expect!(gic::bit(gic::ISACTIVER, intid), "{intid} round {round}");
            gic::set_bit(gic::ICACTIVER, intid);
            expect!(!gic::bit(gic::ISACTIVER, intid), "{intid} round {round}");
        }
    }
    expect_eq!(come(), 0);
    sgi_to_self()
}

/// G1: any access of any width anywhere in the frames is survived.
pub(crate) fn random() -> TestResult {
    const ACCESSES: u64 = 20_000;
    prepare();
    let mut state = machine::argument("seed").unwrap_or(1);
    let frames = [
        GICD_BASE,
        gic::redistributor(0),
        gic::redistributor(0) + SGI_BASE,
    ];
    for _ in 0..ACCESSES {
        let draw = splitmix64(&mut state);
        let value = splitmix64(&mut state);
        let frame = frames[(draw >> 8) as usize % frames.len()];
        // Half of them where the registers are.
        let offset = draw >> 16 & if draw & 16 == 0 { 0xffff } else { 0xfff };
        // GICR_CTLR and the LPI tables: with LPIs enabled RAM would be read for them.
        let lpi = frame == frames[1] && (offset < 4 || (0x70..0x80).contains(&offset));
        let width = draw & 3;
        let at = frame + (offset & !((1 << width) - 1));
        let write = draw & 4 != 0 && !lpi;
        // A fault is an answer; only a hang or a dead VM is not.
        let _ = catch(|| match (write, width) {
            (true, 0) => mem::write8(at, value),
            (true, 1) => mem::write16(at, value),
            (true, 2) => mem::write32(at, value),
            (true, _) => mem::write64(at, value),
            (false, 0) => {
                let _ = mem::read8(at);
            }
            (false, 1) => {
                let _ = mem::read16(at);
            }
            (false, 2) => {
                let _ = mem::read32(at);
            }
            (false, _) => {
                let _ = mem::read64(at);
            }
        });
    }
    // Each begins with a known state, in which all works again.
    sgi_to_self()?;
    spi()
}
