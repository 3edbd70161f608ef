//! What guests, devices and the scheduler may do, at random.

/// Hardware-backed interrupts of vCPU n: both timers, and for vCPU 0 two SPIs.
pub(crate) const HARDWARE_PPIS: [u32; 2] = [27, 30];
pub(crate) const HARDWARE_SPIS: [u32; 2] = [40, 200];
/// Few, so that operations meet; the edges of every bank; and some that do not exist.
pub(crate) const IDS: [u32; 24] = [
    0, 1, 15, 16, 20, 27, 30, 31, 32, 33, 40, 63, 64, 95, 128, 200, 254, 255, 256, 1019, 1020,
    1021, 1022, 1023,
];

#[derive(Clone, Debug)]
pub(crate) enum Op {
    DistRead(u64, u64),
    DistWrite(u64, u64, u64),
    RedistRead(usize, u64, u64),
    RedistWrite(usize, u64, u64, u64),
    /// One bit of a register array, at the right place for an INTID.
    Bit(usize, u64, u32),
    Priority(usize, u32, u8),
    Route(u32, u64),
    Message(u64, u32),
    Sgi(usize, u64, bool),
    Wire(usize, u32, bool),
    Pulse(usize, u32),
    Acknowledge(usize, bool),
    End(usize),
    Dir(usize, u32),
    PriorityMask(usize, u8),
    Groups(usize, u64),
    SplitEoi(usize, bool),
    Park(usize),
    Unpark(usize),
    Touch(usize),
}

/// SplitMix64: every seed gives its own sequence.
#[derive(Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn id(&mut self) -> u32 {
        match self.below(32) {
            0 => self.below(1024) as u32,
            1 => self.pick(&IDS),
            _ => self.pick(&IDS[..18]),
        }
    }

    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 | 1 => self.next(),
            2 => 0,
            3 => u64::MAX,
            _ => 1 << self.below(64),
        }
    }

    fn size(&mut self) -> u64 {
        self.pick(&[1, 2, 4, 4, 4, 4, 8])
    }

    /// Offsets of a 64 KiB frame: everywhere, but mostly in and at the edges of arrays.
    fn offset(&mut self) -> u64 {
        const BASES: [u64; 28] = [
            0, 0x4, 0x8, 0xc, 0x10, 0x14, 0x40, 0x48, 0x50, 0x80, 0x100, 0x180, 0x200, 0x280,
            0x300, 0x380, 0x400, 0x420, 0x500, 0x7f8, 0x800, 0xc00, 0xd00, 0xe00, 0x6100, 0x67f8,
            0xffd0, 0xfffc,
        ];
        let base = self.pick(&BASES);
        match self.below(12) {
            0 => base + self.below(36),
            1 => base + self.below(36) * 32,
            2 => base.wrapping_sub(4),
            3 => self.below(0x2_0010),
            4 => self.next(),
            _ => base + self.below(36) * 4,
        }
    }

    /// An offset in the two frames of a redistributor.
    fn redist_offset(&mut self) -> u64 {
        let frame = self.below(2) << 16;
        self.offset() | frame
    }

    fn sgi(&mut self) -> u64 {
        let id = self.below(16) << 24;
        match self.below(8) {
            0 => id | 1 << 40 | 0xffff,
            1 => self.next(),
            2 => id | 0xff | 1 << self.below(56),
            _ => id | self.below(256),
        }
    }

    /// An operation on a VM with `vcpus` vCPUs.
    pub(crate) fn op(&mut self, vcpus: usize) -> Op {
        /// Enabling and pending are tried more often than the rest.
        const ARRAYS: [u64; 12] = [
            0x80, 0x100, 0x100, 0x100, 0x100, 0x180, 0x200, 0x200, 0x280, 0x300, 0x380, 0x380,
        ];
        let v = self.below(vcpus as u64) as usize;
        match self.below(102) {
            0..9 => Op::Bit(v, self.pick(&ARRAYS), self.id()),
            9..13 => Op::Priority(v, self.id(), self.next() as u8),
            13..17 => Op::Sgi(v, self.sgi(), self.flip()),
            17..30 => Op::Wire(v, self.id(), self.flip()),
            30..34 => Op::Pulse(v, self.id()),
            34..54 => Op::Acknowledge(v, !self.once_in(4)),
            54..66 => Op::End(v),
            66..70 => Op::Dir(v, self.id()),
            70..75 => Op::DistRead(self.offset(), self.size()),
            75..78 => Op::DistWrite(self.offset(), self.size(), self.word()),
            78..83 => Op::RedistRead(v, self.redist_offset(), self.size()),
            83..86 => Op::RedistWrite(v, self.redist_offset(), self.size(), self.word()),
            86 | 87 => {
                let to = match self.below(8) {
                    0 => 0x8000_0000,
                    1 => self.word(),
                    _ => self.below(vcpus as u64),
                };
                Op::Route(self.id(), to)
            }
            88 => Op::Message(self.pick(&[0x40, 0x48]), self.id()),
            89 => {
                let any = self.next() as u8;
                Op::PriorityMask(v, self.pick(&[0xf8, 0xff, any]))
            }
            90 => {
                let any = self.below(4);
                Op::Groups(v, self.pick(&[3, 3, 3, any]))
            }
            91 => Op::SplitEoi(v, self.flip()),
            92 | 93 => Op::Park(v),
            94..97 => Op::Unpark(v),
            _ => Op::Touch(v),
        }
    }
}
