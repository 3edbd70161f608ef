//! When a device may be touched, by a clock that the test turns.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed, which is what is meant"
)]

use devmem::profile::Profile;
use devmem::profile::nvgrace_gpu;
use devmem::{Device, Outcome, Power, Refusal, Trace, TraceEntry, Verdict, Waiter, Why};

/// A GPU whose registers become ready at given times, and who counts who looks.
struct Gpu {
    device: Device,
    link_ready_ms: u64,
    memory_ready_ms: u64,
    link_reads: u32,
    memory_reads: u32,
}

impl Gpu {
    fn new(link_ready_ms: u64, memory_ready_ms: u64) -> Self {
        let mut device = Device::new(Profile::NvgraceGpu.policy());
        device.memory_on();
        Self {
            device,
            link_ready_ms,
            memory_ready_ms,
            link_reads: 0,
            memory_reads: 0,
        }
    }

    fn touch(&mut self, now: u64, waiter: &mut Option<Waiter>) -> Verdict {
        let Self {
            device,
            link_reads,
            memory_reads,
            ..
        } = self;
        let (link, memory) = (self.link_ready_ms, self.memory_ready_ms);
        device.touch(now, waiter, |bar, offset| match (bar, offset) {
            (0, 0x1498) => {
                *link_reads += 1;
                if now >= link { 0xff } else { 0xfe }
            }
            (0, 0x2_00bc) => {
                *memory_reads += 1;
                if now >= memory { 0xff } else { 0x1ff }
            }
            other => panic!("{other:?} was read"),
        })
    }

    /// Touches at `now` and again at each time it is told to; returns the end and its time.
    fn wait(&mut self, now: u64) -> (Verdict, u64) {
        let (mut now, mut waiter) = (now, None);
        loop {
            match self.touch(now, &mut waiter) {
                Verdict::Park { until_ms } => {
                    assert!(until_ms > now, "a wait that does not wait");
                    now = until_ms;
                }
                verdict => return (verdict, now),
            }
        }
    }

    fn reset(&mut self) {
        let duty = self
            .device
            .begin(Why::Reset)
            .expect("nothing else is going on");
        self.device.taken(duty, 0);
    }
}

#[test]
fn a10_a_device_that_is_ready_costs_one_poll_and_no_wait() {
    let mut gpu = Gpu::new(0, 0);
    assert_eq!(gpu.wait(7), (Verdict::Map, 7));
    assert_eq!((gpu.link_reads, gpu.memory_reads), (1, 1));
    // And the next touch reads nothing at all.
    assert_eq!(gpu.wait(8), (Verdict::Map, 8));
    assert_eq!((gpu.link_reads, gpu.memory_reads), (1, 1));
}

#[test]
fn a09_access_waits_for_both_registers_and_then_maps_at_once() {
    let mut gpu = Gpu::new(2500, 5200);
    // Polls at 0, 1, 2 find the link down; from 3 on the memory is asked; 6 finds it trained.
    assert_eq!(gpu.wait(0), (Verdict::Map, 6000));
    assert_eq!((gpu.link_reads, gpu.memory_reads), (7, 4));
}

#[test]
fn a10_a_device_that_is_never_ready_is_refused_after_thirty_seconds() {
    let mut gpu = Gpu::new(u64::MAX, 0);
    let refused = Verdict::Refuse(Refusal::NotReady);
    assert_eq!(gpu.wait(100), (refused, 30_100));
    assert_eq!((gpu.link_reads, gpu.memory_reads), (31, 0));
    assert!(gpu.device.pending(), "the reset is not forgotten");
}

#[test]
fn a11_the_touch_after_a_refusal_polls_afresh() {
    let mut gpu = Gpu::new(40_000, 0);
    assert_eq!(gpu.wait(0), (Verdict::Refuse(Refusal::NotReady), 30_000));
    assert_eq!(gpu.wait(30_500), (Verdict::Map, 40_500));
}

#[test]
fn a10_whoever_looks_early_is_sent_back_without_a_poll() {
    let mut gpu = Gpu::new(u64::MAX, 0);
    let mut waiter = None;
    let park = |until_ms| Verdict::Park { until_ms };
    assert_eq!(gpu.touch(0, &mut waiter), park(1000));
    for now in [1, 500, 999] {
        assert_eq!(gpu.touch(now, &mut waiter), park(1000));
    }
    assert_eq!(gpu.link_reads, 1);
    assert_eq!(gpu.touch(1000, &mut waiter), park(2000));
    assert_eq!(gpu.link_reads, 2);
}

#[test]
fn a14_a_reset_during_a_wait_begins_the_wait_anew() {
    let mut gpu = Gpu::new(45_000, 45_000);
    let mut waiter = None;
    let mut now = 0;
    while now < 20_000 {
        match gpu.touch(now, &mut waiter) {
            Verdict::Park { until_ms } => now = until_ms,
            other => panic!("{other:?}"),
        }
    }
    gpu.reset();
    // Without the reset it would be refused at 30 s. It is retried, not failed.
    loop {
        match gpu.touch(now, &mut waiter) {
            Verdict::Park { until_ms } => now = until_ms,
            verdict => {
                assert_eq!((verdict, now), (Verdict::Map, 45_000));
                break;
            }
        }
    }
}

#[test]
fn a13_registers_are_never_read_with_memory_off_or_in_d3() {
    for why in [Why::MemoryOff, Why::PowerDown, Why::Closed] {
        let mut gpu = Gpu::new(0, 0);
        gpu.reset();
        let duty = gpu.device.begin(why).expect("nothing else is going on");
        // Neither while it happens nor after.
        let refusal = match why {
            Why::MemoryOff => Refusal::MemoryOff,
            Why::PowerDown => Refusal::LowPower,
            _ => Refusal::Closed,
        };
        assert_eq!(gpu.wait(0), (Verdict::Refuse(refusal), 0));
        gpu.device.taken(duty, 0);
        assert_eq!(gpu.wait(1), (Verdict::Refuse(refusal), 1));
        assert_eq!((gpu.link_reads, gpu.memory_reads), (0, 0), "{why:?}");
    }
}

#[test]
fn a13_memory_that_was_off_comes_back_without_a_poll_unless_it_was_reset() {
    let mut gpu = Gpu::new(0, 0);
    assert_eq!(gpu.wait(0), (Verdict::Map, 0));
    let duty = gpu.device.begin(Why::MemoryOff).expect("idle");
    gpu.device.taken(duty, 0);
    gpu.device.memory_on();
    assert_eq!(gpu.wait(1), (Verdict::Map, 1));
    assert_eq!(gpu.link_reads, 1);
    // D3 loses what the device was.
    let duty = gpu.device.begin(Why::PowerDown).expect("idle");
    assert_eq!(gpu.device.power(), Power::D3);
    gpu.device.taken(duty, 0);
    gpu.device.power_up();
    assert_eq!(gpu.wait(2), (Verdict::Map, 2));
    assert_eq!(gpu.link_reads, 2);
}

#[test]
fn a08_nothing_is_mapped_while_mappings_are_taken_away() {
    for why in [Why::Reset, Why::Moved, Why::Revoked] {
        let mut gpu = Gpu::new(0, 0);
        assert_eq!(gpu.wait(0), (Verdict::Map, 0));
        let duty = gpu.device.begin(why).expect("idle");
        assert_eq!(gpu.touch(1, &mut None), Verdict::Again);
        assert_eq!(gpu.device.begin(Why::Reset), None, "one at a time");
        gpu.device.taken(duty, 0);
        assert_eq!(gpu.touch(2, &mut None), Verdict::Map);
        // Only the reset had it polled again.
        let polls = if why == Why::Reset { 2 } else { 1 };
        assert_eq!(gpu.link_reads, polls, "{why:?}");
    }
}

#[test]
fn registers_are_reached_before_the_device_is_ready_and_never_while_it_is_off() {
    let mut gpu = Gpu::new(u64::MAX, 0);
    assert_eq!(gpu.device.touch_registers(0), Verdict::Map);
    let duty = gpu.device.begin(Why::Reset).expect("idle");
    assert_eq!(gpu.device.touch_registers(0), Verdict::Again);
    gpu.device.taken(duty, 100);
    assert_eq!(
        gpu.device.touch_registers(99),
        Verdict::Park { until_ms: 100 }
    );
    let duty = gpu.device.begin(Why::MemoryOff).expect("idle");
    gpu.device.taken(duty, 0);
    let refused = Verdict::Refuse(Refusal::MemoryOff);
    assert_eq!(gpu.device.touch_registers(100), refused);
    assert_eq!(gpu.link_reads, 0);
}

#[test]
fn a08_memory_that_is_going_off_may_be_mapped_until_that_is_done() {
    let mut gpu = Gpu::new(0, 0);
    assert_eq!(gpu.wait(0), (Verdict::Map, 0));
    let duty = gpu.device.begin(Why::MemoryOff).expect("idle");
    assert!(!gpu.device.memory() && gpu.device.may_be_mapped());
    gpu.device.taken(duty, 0);
    assert!(!gpu.device.may_be_mapped());
}

#[test]
fn a_function_that_resets_is_left_alone_for_as_long_as_it_asks() {
    let mut gpu = Gpu::new(0, 0);
    let duty = gpu.device.begin(Why::Reset).expect("idle");
    gpu.device.taken(duty, 100);
    assert_eq!(gpu.touch(99, &mut None), Verdict::Park { until_ms: 100 });
    assert_eq!(gpu.link_reads, 0);
    assert_eq!(gpu.touch(100, &mut None), Verdict::Map);
}

#[test]
fn the_policies_are_those_of_the_devices() {
    let gpu = Profile::NvgraceGpu.policy();
    assert_eq!((gpu.quantum_ms, gpu.timeout_ms), (1000, 30_000));
    let seen: Vec<_> = gpu
        .checks
        .iter()
        .map(|check| (check.bar, check.offset, check.mask, check.want))
        .collect();
    let all = 0xffff_ffff;
    assert_eq!(seen, [(0, 0x1498, all, 0xff), (0, 0x2_00bc, all, 0xff)]);
    assert_eq!(
        nvgrace_gpu::DEVICES,
        [0x2342, 0x2345, 0x2348, 0x2941, 0x31c2]
    );
    assert_eq!(nvgrace_gpu::VENDOR, 0x10de);
    let nvme = Profile::Nvme.policy();
    let not_there = |_, offset| if offset == 0x1c { u32::MAX } else { 0 };
    assert!(
        !nvme.poll(not_there),
        "a controller that is gone is not ready"
    );
    assert!(nvme.poll(|_, _| 0));
    assert!(
        Profile::Generic
            .policy()
            .poll(|_, _| panic!("nothing to read"))
    );
    for profile in Profile::ALL {
        assert_eq!(Profile::from_name(profile.name()), Some(profile));
    }
    assert_eq!(Profile::from_name("nvgrace"), None);
}

#[test]
fn a17_every_fault_is_counted_and_some_are_written_down() {
    let mut trace = Trace::new();
    let entry = |at_ms| TraceEntry {
        at_ms,
        order: Some(devmem::Order::Block2M),
        pa: arch::Pa::new(0x20_0000),
        outcome: Outcome::Mapped,
    };
    for _ in 0..1000 {
        trace.note(entry(500));
    }
    assert_eq!(trace.counters().mapped, [0, 0, 1000, 0]);
    assert_eq!(trace.counters().dropped, 1000 - 16);
    // A second later there is room again, and the oldest line goes.
    trace.note(entry(1500));
    assert_eq!(trace.counters().dropped, 1000 - 16);
    let lines: Vec<_> = trace.lines().collect();
    assert_eq!(lines.len(), 16);
    assert_eq!((lines[0].at_ms, lines[15].at_ms), (500, 1500));
    for (outcome, order) in [(Outcome::Parked, None), (Outcome::Refused, None)] {
        trace.note(TraceEntry {
            outcome,
            order,
            ..entry(1600)
        });
    }
    assert_eq!((trace.counters().parked, trace.counters().refused), (1, 1));
}
