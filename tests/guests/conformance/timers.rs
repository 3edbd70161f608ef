//! Both EL1 timers: CVAL, CTL, levels, interrupts.

use payload::sysreg::{CNTP_TVAL_EL0, CNTV_TVAL_EL0};
use payload::timer::{ENABLE, IMASK, ISTATUS, Timer, ticks};
use payload::{TestResult, cpu, expect, expect_eq, gic, smp, timer};

const SOON_NS: u64 = 100_000;

/// Makes the GIC and both timers ready, with interrupts masked and nothing pending.
fn prepare() {
    cpu::mask_irq();
    gic::init_distributor();
    gic::init_cpu();
    for timer in Timer::BOTH {
        timer.set_control(0);
        gic::set_bit(gic::ISENABLER, timer.intid());
    }
}

/// Runs `f` with interrupts let in.
fn unmasked<R>(f: impl FnOnce() -> R) -> R {
    cpu::unmask_irq();
    let result = f();
    cpu::mask_irq();
    result
}

fn pending(timer: Timer) -> bool {
    gic::bit(gic::ISPENDR, timer.intid())
}

pub(crate) fn fires() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        let before = gic::count(0, timer.intid());
        let due = timer.now() + ticks(SOON_NS);
        timer.set_compare(due);
        expect_eq!(timer.compare(), due, "{timer:?}");
        timer.set_control(ENABLE);
        let early = timer.control() & ISTATUS != 0 && timer.now() < due;
        expect!(!early, "{timer:?}");
        let fired = || gic::count(0, timer.intid()) == before + 1;
        expect!(unmasked(|| smp::wait(fired)), "{timer:?}");
        expect!(timer.now() >= due, "{timer:?} early");
        // The handler masked it, and its condition still holds.
        expect_eq!(timer.control(), ENABLE | IMASK | ISTATUS, "{timer:?}");
        // Once is once.
        unmasked(|| timer::spin(SOON_NS));
        expect_eq!(gic::count(0, timer.intid()), before + 1, "{timer:?}");
    }
    Ok(())
}

pub(crate) fn wakes_wfi() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        for round in 0..20 {
            let before = gic::count(0, timer.intid());
            let due = timer.now() + ticks(SOON_NS);
            timer.set_compare(due);
            timer.set_control(ENABLE);
            // WFI may end early, but not late.
            let mut sleeps = 0;
            while timer.now() < due {
                cpu::wfi();
                sleeps += 1;
                expect!(sleeps < 1000, "{timer:?} WFI does not wait");
            }
            unmasked(cpu::isb);
            let fired = || gic::count(0, timer.intid()) == before + 1;
            expect!(unmasked(|| smp::wait(fired)), "{timer:?} {round}");
        }
    }
    Ok(())
}

pub(crate) fn past() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        for compare in [0, 1, timer.now() / 2, timer.now()] {
            let before = gic::count(0, timer.intid());
            timer.set_compare(compare);
            timer.set_control(ENABLE);
            expect_eq!(timer.control(), ENABLE | ISTATUS, "{timer:?} {compare}");
            let fired = || gic::count(0, timer.intid()) == before + 1;
            expect!(unmasked(|| smp::wait(fired)), "{timer:?} {compare}");
            timer.set_control(0);
        }
    }
    Ok(())
}

pub(crate) fn masked() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        let before = gic::count(0, timer.intid());
        timer.set_compare(timer.now() + ticks(SOON_NS));
        timer.set_control(ENABLE | IMASK);
        // QEMU tells of it when its own timer has run, not by looking at the counter.
        let due = || timer.control() == ENABLE | IMASK | ISTATUS;
        expect!(
            unmasked(|| smp::wait(due)),
            "{timer:?} {:#x}",
            timer.control()
        );
        unmasked(|| timer::spin(SOON_NS));
        expect!(!pending(timer), "{timer:?} masked");
        expect_eq!(gic::count(0, timer.intid()), before, "{timer:?} masked");
        timer.set_control(0);
        unmasked(|| timer::spin(SOON_NS));
        expect!(!pending(timer), "{timer:?} off");
        expect_eq!(gic::count(0, timer.intid()), before, "{timer:?} off");
        // Unmasking what is due fires.
        timer.set_control(ENABLE);
        let fired = || gic::count(0, timer.intid()) == before + 1;
        expect!(unmasked(|| smp::wait(fired)), "{timer:?}");
        timer.set_control(0);
    }
    Ok(())
}

/// The level of a timer is what its pending bit shows, up and down.
pub(crate) fn level() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        expect!(!pending(timer), "{timer:?} off");
        timer.set_compare(0);
        timer.set_control(ENABLE);
        expect!(pending(timer), "{timer:?} due");
        timer.set_control(ENABLE | IMASK);
        expect!(!pending(timer), "{timer:?} masked");
        timer.set_control(ENABLE);
        expect!(pending(timer), "{timer:?} unmasked");
        timer.set_compare(u64::MAX);
        expect!(!pending(timer), "{timer:?} moved to the future");
        timer.set_compare(0);
        expect!(pending(timer), "{timer:?} moved to the past");
        // A level cannot be cleared by ICPENDR.
        gic::set_bit(gic::ICPENDR, timer.intid());
        expect!(pending(timer), "{timer:?} after ICPENDR");
        // Not enabled in the GIC, it is pending all the same.
        gic::set_bit(gic::ICENABLER, timer.intid());
        expect!(pending(timer), "{timer:?} disabled in the GIC");
        gic::set_bit(gic::ISENABLER, timer.intid());
        timer.set_control(0);
        expect!(!pending(timer), "{timer:?} off again");
        // Nothing of that is left to be taken.
        let before = gic::taken(0);
        unmasked(|| timer::spin(SOON_NS));
        expect_eq!(gic::taken(0), before, "{timer:?}");
    }
    Ok(())
}

pub(crate) fn edges() -> TestResult {
    prepare();
    for timer in Timer::BOTH {
        timer.set_control(ENABLE | IMASK);
        // The comparison is of unsigned 64-bit numbers (DDI 0487, CNTV_CTL_EL0.ISTATUS).
        for (compare, due) in [
            (0, true),
            (u64::MAX, false),
            (1 << 63, false),
            ((1 << 63) - 1, false),
            (1 << 56, false),
            (timer.now(), true),
        ] {
            timer.set_compare(compare);
            expect_eq!(timer.compare(), compare, "{timer:?}");
            let status = timer.control() & ISTATUS != 0;
            expect_eq!(status, due, "{timer:?} CVAL {compare:#x}");
        }
        // TVAL is signed 32-bit, relative to now.
        let set_tval = |value: u32| match timer {
            Timer::Virtual => CNTV_TVAL_EL0.write(value.into()),
            Timer::Physical => CNTP_TVAL_EL0.write(value.into()),
        };
        let tval = || match timer {
            Timer::Virtual => CNTV_TVAL_EL0.read(),
            Timer::Physical => CNTP_TVAL_EL0.read(),
        };
        let now = timer.now();
        set_tval(0x7fff_ffff);
        let compare = timer.compare();
        expect!(
            compare >= now + 0x7fff_ffff,
            "{timer:?} {compare:#x} {now:#x}"
        );
        expect_eq!(timer.control() & ISTATUS, 0, "{timer:?}");
        expect!(tval() <= 0x7fff_ffff, "{timer:?} {:#x}", tval());
        if now > 0x8000_0000 {
            set_tval(0x8000_0000);
            expect!(timer.compare() < timer.now(), "{timer:?}");
            expect_eq!(timer.control() & ISTATUS, ISTATUS, "{timer:?}");
        }
        set_tval(0);
        expect_eq!(timer.control() & ISTATUS, ISTATUS, "{timer:?}");
        timer.set_control(0);
        expect_eq!(timer.control() & (ENABLE | IMASK), 0, "{timer:?}");
    }
    Ok(())
}

pub(crate) fn independent() -> TestResult {
    prepare();
    let [first, second] = Timer::BOTH;
    let counts = || Timer::BOTH.map(|timer| gic::count(0, timer.intid()));
    let [before_first, before_second] = counts();
    first.set_compare(first.now() + ticks(3_600_000_000_000));
    second.set_compare(second.now() + ticks(SOON_NS));
    first.set_control(ENABLE);
    second.set_control(ENABLE);
    let one = [before_first, before_second + 1];
    expect!(unmasked(|| smp::wait(|| counts() == one)), "{:?}", counts());
    unmasked(|| timer::spin(SOON_NS));
    expect_eq!(counts(), one);
    first.set_compare(first.now() + ticks(SOON_NS));
    let both = [before_first + 1, before_second + 1];
    expect!(
        unmasked(|| smp::wait(|| counts() == both)),
        "{:?}",
        counts()
    );
    Ok(())
}

pub(crate) fn forward() -> TestResult {
    expect!(timer::hz() >= 1_000_000, "{} Hz", timer::hz());
    for timer in Timer::BOTH {
        let start = timer.now();
        let mut last = start;
        for _ in 0..10_000 {
            let now = timer.now();
            expect!(now >= last, "{timer:?} from {last} to {now}");
            last = now;
        }
        expect!(last > start, "{timer:?} stands still");
    }
    // Both run at the same rate; their difference is the offset, and that is constant.
    let offset = || Timer::Physical.now().wrapping_sub(Timer::Virtual.now());
    let before = offset();
    timer::spin(1_000_000);
    let drift = offset().wrapping_sub(before).cast_signed().unsigned_abs();
    expect!(drift < timer::hz() / 100, "drift {drift}");
    Ok(())
}
