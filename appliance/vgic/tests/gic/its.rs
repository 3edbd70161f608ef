//! The ITS hazard by hazard (RELIABILITY G5): bounded, resumable, and dead to what is wrong.

use vgic::its::{BUDGET, Its, Machine, Progress};
use vgic::{Kick, Lpis, Lr, LrSet, Vgic, Width};

use crate::its_spec::{Memory, RAM};

/// A controller with an ITS, and what was done to memory.
struct Bench {
    its: Its,
    gic: Vgic,
    memory: Memory,
    reads: u32,
    kick: Kick,
}

struct Port<'a>(&'a mut Vgic, &'a mut Memory, &'a mut u32, &'a mut Kick);

impl Machine for Port<'_> {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> bool {
        *self.2 += 1;
        let there = self.1.slice(at, bytes.len());
        there.map(|from| bytes.copy_from_slice(from)).is_some()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        let there = self.1.slice(at, bytes.len());
        there.map(|to| to.copy_from_slice(bytes)).is_some()
    }

    fn gic(&mut self, step: impl FnOnce(&mut Vgic) -> Kick) {
        *self.3 |= step(self.0);
    }
}

impl Bench {
    /// Two vCPUs; LPIs are on, the ITS is; collections 0 and 1; device 8 has 64 events.
    fn new() -> Self {
        let mut bench = Self {
            its: Its::new(2),
            gic: Vgic::new(2),
            memory: Memory::new(),
            reads: 0,
            kick: Kick::NONE,
        };
        bench.gic.attach_lpis(Box::leak(Box::new(Lpis::new())));
        let _ = bench.gic.dist_write(0, Width::Word, 2);
        for v in 0..2 {
            bench.redist(v, 0x70, 0x4001_000d);
            let table = 0x4002_0000 + ((v as u64) << 16);
            bench.redist(v, 0x78, table | 1 << 62);
            bench.redist(v, 0, 1);
        }
        assert_eq!(bench.write(0x80, 1 << 63 | RAM), Progress::Done);
        assert_eq!(bench.write(0, 1), Progress::Done);
        bench.issue(&[
            [0x09, 0, 1 << 63, 0],
            [0x09, 0, 1 << 63 | 1 << 16 | 1, 0],
            [8 << 32 | 0x08, 5, 1 << 63, 0],
        ]);
        bench
    }

    fn redist(&mut self, v: usize, offset: u64, value: u64) {
        let Self {
            its,
            gic,
            memory,
            reads,
            kick,
        } = self;
        let width = if offset == 0 {
            Width::Word
        } else {
            Width::Double
        };
        its.redist_write(&mut Port(gic, memory, reads, kick), v, offset, width, value);
    }

    fn write(&mut self, offset: u64, value: u64) -> Progress {
        let Self {
            its,
            gic,
            memory,
            reads,
            kick,
        } = self;
        let width = if offset == 0 {
            Width::Word
        } else {
            Width::Double
        };
        its.write(&mut Port(gic, memory, reads, kick), offset, width, value)
    }

    /// Puts commands into the queue and tells the ITS until it is through; returns how often.
    fn issue(&mut self, commands: &[[u64; 4]]) -> u32 {
        let mut at = self.its.read(0x88, Width::Double);
        for words in commands {
            for (n, word) in (0..).zip(words) {
                let place = self.memory.slice(RAM + at + 8 * n, 8).unwrap();
                place.copy_from_slice(&word.to_le_bytes());
            }
            at = (at + 32) % 4096;
        }
        let mut times = 1;
        while self.write(0x88, at) == Progress::More {
            times += 1;
        }
        assert_eq!(self.its.read(0x90, Width::Double), at);
        times
    }

    fn map(&mut self, event: u64, lpi: u64, collection: u64) {
        self.memory.0[0x1_0000 + lpi as usize] = 0xa1;
        let intid = 8192 + lpi;
        self.issue(&[[8 << 32 | 0x0a, intid << 32 | event, collection, 0]]);
    }

    /// INTIDs that the list registers of `v` would show.
    fn shown(&mut self, v: usize, lrs: &mut LrSet) -> Vec<u32> {
        let _ = self.gic.fill(v, lrs);
        let used = lrs.used.count_ones() as usize;
        lrs.lr[..used].iter().map(|lr| lr.vintid()).collect()
    }
}

const INT: u64 = 8 << 32 | 0x03;

#[test]
fn one_write_reads_as_much_as_is_allowed_and_no_more() {
    let mut bench = Bench::new();
    bench.map(0, 0, 0);
    bench.reads = 0;
    let commands = [[INT, 0, 0, 0]; 127];
    assert_eq!(bench.issue(&commands), 127_u32.div_ceil(BUDGET));
    assert_eq!(bench.reads, 127);
    // Each INV reads twice; INVALL counts as many.
    bench.reads = 0;
    let commands = [[8 << 32 | 0x0c, 0, 0, 0]; 127];
    assert_eq!(bench.issue(&commands), 254_u32.div_ceil(BUDGET));
    assert_eq!(bench.issue(&[[0x0d, 0, 0, 0]; 127]), 127_u32.div_ceil(2));
}

#[test]
fn a_write_that_is_not_done_shows_how_far_it_is() {
    let mut bench = Bench::new();
    bench.map(0, 0, 0);
    let at = bench.its.read(0x88, Width::Double);
    let end = (at + 100 * 32) % 4096;
    assert_eq!(bench.write(0x88, end), Progress::More);
    let reader = bench.its.read(0x90, Width::Double);
    assert_eq!(reader, (at + u64::from(BUDGET) * 32) % 4096);
    // Switched off in between, it stays there; on again, it goes on.
    assert_eq!(bench.write(0, 0), Progress::Done);
    assert_eq!(bench.write(0x88, end), Progress::Done);
    assert_eq!(bench.its.read(0x90, Width::Double), reader);
    assert_eq!(bench.write(0, 1), Progress::More);
    while bench.write(0, 1) == Progress::More {}
    assert_eq!(bench.its.read(0x90, Width::Double), end);
}

#[test]
fn the_queue_ends_where_it_says() {
    let mut bench = Bench::new();
    bench.map(0, 0, 0);
    // What lies behind the queue is no command.
    for (n, word) in (0..).zip([INT, 0, 0, 0]) {
        let place = bench.memory.slice(RAM + 4096 + 8 * n, 8).unwrap();
        place.copy_from_slice(&u64::to_le_bytes(word));
    }
    for _ in 0..3 {
        bench.issue(&[[0x05, 0, 0, 0]; 100]);
    }
    let mut lrs = LrSet::new(4);
    assert_eq!(bench.shown(0, &mut lrs), []);
    // Nor is there a command past a writer that points outside.
    assert_eq!(bench.write(0x88, 4096), Progress::Done);
    assert_eq!(
        bench.its.read(0x90, Width::Double),
        bench.its.read(0x88, Width::Double)
    );
}

#[test]
fn a_command_that_is_wrong_is_passed_over() {
    let mut bench = Bench::new();
    bench.map(0, 0, 0);
    let wrong = [
        [0, 0, 0, 0],
        [0xff, u64::MAX, u64::MAX, u64::MAX],
        // No such device; more events than an ID has bits for.
        [256 << 32 | 0x08, 5, 1 << 63, 0],
        [16 << 32 | 0x08, 11, 1 << 63, 0],
        // No such vCPU, no such collection.
        [0x09, 0, 1 << 63 | 2 << 16 | 3, 0],
        [0x09, 0, 1 << 63 | 16, 0],
        // No such event, no such device, no LPI, no such collection.
        [8 << 32 | 0x0a, 8192 << 32 | 64, 0, 0],
        [24 << 32 | 0x0a, 8192 << 32, 0, 0],
        [8 << 32 | 0x0a, 8191 << 32 | 1, 0, 0],
        [8 << 32 | 0x0a, 9216 << 32 | 1, 0, 0],
        [8 << 32 | 0x0a, 8192 << 32 | 1, 16, 0],
        // Virtual LPIs are GICv4's.
        [0x22, 0, 0, 0],
        [INT, 1, 0, 0],
        [INT, 0, 0, 0],
    ];
    bench.issue(&wrong);
    let mut lrs = LrSet::new(4);
    assert_eq!(bench.shown(0, &mut lrs), [8192], "the last one was right");
}

#[test]
fn messages_are_dropped_unless_everything_on_their_way_is_on() {
    let mut bench = Bench::new();
    bench.map(0, 5, 0);
    let send = |bench: &mut Bench| {
        let Bench { its, gic, .. } = bench;
        !its.signal(gic, 8, 0).is_empty()
    };
    assert_eq!(bench.write(0, 0), Progress::Done);
    assert!(!send(&mut bench), "the ITS is off");
    assert_eq!(bench.write(0, 1), Progress::Done);
    bench.redist(0, 0, 0);
    assert!(!send(&mut bench), "LPIs are off");
    bench.redist(0, 0, 1);
    bench.issue(&[[0x09, 0, 0, 0]]);
    assert!(!send(&mut bench), "the collection leads nowhere");
    bench.issue(&[[0x09, 0, 1 << 63, 0]]);
    assert!(send(&mut bench));
    assert!(!send(&mut bench), "it pends already");
}

/// An SGI that is signalled to a vCPU is worth an exit once, and so is an LPI.
#[test]
fn a_storm_of_messages_is_one_interrupt_at_a_time() {
    let mut bench = Bench::new();
    bench.map(0, 0, 1);
    let mut lrs = LrSet::new(4);
    let mut kicks = 0;
    for _ in 0..10_000 {
        let Bench { its, gic, .. } = &mut bench;
        kicks += u32::from(!its.signal(gic, 8, 0).is_empty());
    }
    assert_eq!(kicks, 1);
    assert_eq!(bench.shown(1, &mut lrs), [8192]);
    // The guest takes it: pending is over, and active there is none.
    lrs.lr[0] = Lr::from_raw(lrs.lr[0].raw() & !(3 << 62));
    let _ = bench.gic.fold(1, &lrs);
    assert!(!bench.gic.pending(1));
}

#[test]
fn devices_that_come_and_go_leave_no_event_taken() {
    let mut bench = Bench::new();
    for round in 0..200_u64 {
        let device = (round % 7) << 32;
        let bits = round % 11;
        bench.issue(&[[device | 0x08, bits, 1 << 63, 0]]);
        bench.issue(&[[device | 0x0a, 8192 << 32 | 1, 0, 0]]);
        if round % 3 == 0 {
            bench.issue(&[[device | 0x08, 0, 0, 0]]);
        }
    }
    for device in 0..256_u64 {
        bench.issue(&[[device << 32 | 0x08, 0, 0, 0]]);
    }
    // All of them for one, and what it had before is not there.
    bench.issue(&[[3 << 32 | 0x08, 10, 1 << 63, 0], [3 << 32 | 0x03, 1, 0, 0]]);
    let mut lrs = LrSet::new(4);
    assert_eq!(bench.shown(0, &mut lrs), []);
    bench.memory.0[0x1_0000] = 0xa1;
    bench.issue(&[
        [3 << 32 | 0x0a, 8192 << 32 | 2047, 0, 0],
        [3 << 32 | 0x03, 2047, 0, 0],
    ]);
    assert_eq!(bench.shown(0, &mut lrs), [8192]);
}
