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
    /// Register accesses, messages and memory of a VM with an ITS; nothing without.
    ItsRead(u64, u64),
    ItsWrite(u64, u64, u64),
    /// A command, put where `GITS_CWRITER` points, which then moves on.
    Command([u64; 4]),
    DeviceWrites(u32, u32),
    /// The guest writes its memory: an offset from where RAM begins, and a byte.
    Store(u64, u8),
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

    /// A device and one of its events: few, and those at the edges.
    fn event(&mut self) -> (u64, u64) {
        let device = self.pick(&[0, 8, 8, 16, 255, 256]);
        let event = self.pick(&[0, 1, 2, 3, 15, 16, 31, 2047, 2048]);
        (device, event)
    }

    fn lpi(&mut self) -> u64 {
        match self.below(16) {
            0 => self.pick(&[0, 33, 8191, 9216, 16383, 16384, 0xffff_ffff]),
            1 => 8192 + self.below(1024),
            _ => self.pick(&[8192, 8193, 8194, 8223, 8224, 8255, 9215]),
        }
    }

    /// A command, mostly one that can be obeyed.
    pub(crate) fn command(&mut self, vcpus: usize) -> [u64; 4] {
        let (device, event) = self.event();
        let icid = match self.below(16) {
            0 => self.pick(&[15, 16, 0xffff]),
            _ => self.below(vcpus as u64),
        };
        let valid = u64::from(!self.once_in(6)) << 63;
        let rd = (self.below(vcpus as u64) + u64::from(self.once_in(20)) * 9) << 16;
        let rd2 = self.below(vcpus as u64) << 16;
        let (dw0, lpi) = (device << 32, self.lpi());
        match self.below(40) {
            0..2 => {
                let any = self.below(32);
                let bits = self.pick(&[0, 1, 3, 4, 5, 6, 10, any]);
                [dw0 | 0x08, bits, valid | 0x4009_0000, 0]
            }
            2..5 => [0x09, 0, valid | rd | icid, 0],
            5..15 => [dw0 | 0x0a, lpi << 32 | event, icid, 0],
            15 => [dw0 | 0x0b, lpi, icid, 0],
            16..20 => [dw0 | 0x01, event, icid, 0],
            20 => [0x0e, 0, rd, rd2],
            21 => [dw0 | 0x0f, event, 0, 0],
            22..26 => [dw0 | 0x0c, event, 0, 0],
            26 => [0x0d, 0, icid, 0],
            27..36 => [dw0 | 0x03, event, 0, 0],
            36 => [dw0 | 0x04, event, 0, 0],
            37 => [0x05, 0, rd, 0],
            _ => [self.next(), self.next(), self.next(), self.next()],
        }
    }

    fn its_offset(&mut self) -> u64 {
        const BASES: [u64; 12] = [
            0, 0x4, 0x8, 0x18, 0x40, 0x80, 0x88, 0x90, 0x100, 0x138, 0xffd0, 0x1_0040,
        ];
        match self.below(6) {
            0 => self.below(0x2_0008),
            1 => self.next(),
            _ => self.pick(&BASES) + self.below(4) * 4,
        }
    }

    /// An operation that only a VM with an ITS knows.
    pub(crate) fn its_op(&mut self, vcpus: usize) -> Op {
        let v = self.below(vcpus as u64) as usize;
        match self.below(65) {
            64 => Op::DistWrite(0, 4, self.pick(&[0, 1, 2, 3, 3, 3])),
            0..30 => Op::Command(self.command(vcpus)),
            30..46 => {
                let (device, event) = self.event();
                Op::DeviceWrites(device as u32, event as u32)
            }
            // Configuration bytes of the LPIs in use.
            46..53 => {
                let lpi = self.lpi() % 1024;
                let any = self.next() as u8;
                Op::Store(0x1_0000 + lpi, self.pick(&[any, 0x81, 0xa1, 0xa0, 0x01]))
            }
            // Anything: commands to come, pending tables.
            53 => Op::Store(self.below(0xb_0000), self.next() as u8),
            54..56 => Op::ItsRead(self.its_offset(), self.size()),
            56 => Op::ItsWrite(self.its_offset(), self.size(), self.word()),
            57 => Op::ItsWrite(0x88, 8, self.below(128) * 32),
            58 => Op::ItsWrite(0, 4, u64::from(self.flip())),
            59 => Op::ItsWrite(0x80, 8, 1 << 63 | 0x4000_0000 | self.below(2)),
            60 => Op::RedistWrite(v, 0, 4, u64::from(!self.once_in(3))),
            61 => Op::RedistRead(v, self.pick(&[0, 0x70, 0x74, 0x78, 0x7c]), self.size()),
            62 => {
                let table = 0x4002_0000 + ((v as u64) << 16);
                let any = self.next();
                Op::RedistWrite(v, 0x78, 8, self.pick(&[table, table, table | 1 << 62, any]))
            }
            _ => {
                let bits = self.pick(&[13, 13, 13, 12, 31, 15]);
                Op::RedistWrite(v, 0x70, 8, 0x4001_0000 | bits)
            }
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
