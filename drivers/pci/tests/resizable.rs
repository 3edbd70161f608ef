//! BARs of chosen size, against a function that answers as the manual says: what its BAR decodes
//! follows what its control register says.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what is meant"
)]

use std::cell::RefCell;
use std::rc::Rc;

use pci::{
    Address, Closed, Config, Emulated, Found, Function, Host, Kind, Window, Windows, enumerate,
};
use proptest::prelude::*;

/// A function with a 64-bit BAR 0 of registers, and BARs 2 and 4 that can be resized. Sizes are
/// log2 of bytes, as the test counts them.
#[derive(Clone, Debug)]
struct Gpu {
    words: Vec<u32>,
    /// Sizes that BAR 2 and BAR 4 can have, and have.
    able: [Vec<u32>; 2],
    size: [u32; 2],
    default: [u32; 2],
    /// A size that BAR 4 says it can have, and does not take.
    stubborn: Option<u32>,
}

const CAPABILITY: usize = 0x200;

impl Gpu {
    fn new(able: [Vec<u32>; 2], default: [u32; 2]) -> Self {
        let mut words = vec![0; 1024];
        words[0] = 0x2342_10de;
        words[1] = 0x0010_0000;
        words[0x10 / 4] = 4;
        words[0x18 / 4] = 0xc;
        words[0x20 / 4] = 0xc;
        words[0x34 / 4] = 0x40;
        words[0x40 / 4] = 0x0002_0010;
        words[0x44 / 4] = 1 << 28;
        // Something else comes first.
        words[0x100 / 4] = 0x2001_0001;
        words[CAPABILITY / 4] = 0x0001_0015;
        for (n, sizes) in able.iter().enumerate() {
            for size in sizes {
                if *size < 48 {
                    words[CAPABILITY / 4 + 1 + n * 2] |= 1 << (*size - 20 + 4);
                } else {
                    words[CAPABILITY / 4 + 2 + n * 2] |= 1 << (*size - 48 + 16);
                }
            }
            words[CAPABILITY / 4 + 2 + n * 2] |=
                (2 + 2 * n as u32) | if n == 0 { 2 << 5 } else { 0 };
        }
        let mut new = Self {
            words,
            able,
            size: default,
            default,
            stubborn: None,
        };
        new.reset();
        new
    }

    fn reset(&mut self) {
        self.words[1] = 0x0010_0000;
        for n in 0..2 {
            self.take(n, self.default[n]);
        }
        for at in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24] {
            self.words[at / 4] &= 0xf;
        }
    }

    fn take(&mut self, n: usize, size: u32) {
        self.size[n] = size;
        let control = &mut self.words[CAPABILITY / 4 + 2 + n * 2];
        *control = *control & !0x3f00 | (size - 20) << 8;
    }
}

impl Config for Gpu {
    fn read(&mut self, offset: u16) -> u32 {
        self.words[usize::from(offset) / 4]
    }

    fn write(&mut self, offset: u16, value: u32) {
        let at = usize::from(offset);
        match at {
            4 => self.words[1] = self.words[1] & !0x546 | value & 0x546,
            0x10 => self.words[at / 4] = value & 0xfff0_0000 | 4,
            0x14 => self.words[at / 4] = value,
            0x18 | 0x1c | 0x20 | 0x24 => {
                let bar = (at - 0x18) / 8;
                let mask = !((1_u64 << self.size[bar]) - 1);
                let high = at % 8 != 0;
                let mask = if high {
                    (mask >> 32) as u32
                } else {
                    mask as u32 & !0xf
                };
                let bits = if high { 0 } else { 0xc };
                self.words[at / 4] = value & mask | bits;
            }
            // Device Control: FLR.
            0x48 if value >> 15 & 1 != 0 => self.reset(),
            _ if at == CAPABILITY + 8 || at == CAPABILITY + 16 => {
                assert_eq!(
                    self.words[1] & 2,
                    0,
                    "it decodes memory while it is resized"
                );
                let n = (at - CAPABILITY - 8) / 8;
                let size = (value >> 8 & 0x3f) + 20;
                if self.able[n].contains(&size) && self.stubborn != Some(size) {
                    self.take(n, size);
                }
            }
            _ => {}
        }
    }
}

fn sizes() -> impl Strategy<Value = Vec<u32>> {
    let all: Vec<u32> = (20..=63).collect();
    prop::sample::subsequence(all, 1..8)
}

proptest! {
    /// Every size it says, and none other, can be chosen; the BAR then says that size, in the
    /// machine and in the guest's view, where the capability is not to be seen.
    #[test]
    fn a_bar_has_the_size_that_was_chosen(
        a in sizes(), b in sizes(), pick in 18..64_u32, second: bool, lies: bool,
    ) {
        let mut gpu = Gpu::new([a.clone(), b.clone()], [a[0], b[0]]);
        let mut function = Function::probe(&mut gpu).expect("is there");
        for (n, able) in [(2, &a), (4, &b)] {
            let bits = able.iter().fold(0_u64, |bits, size| bits | 1 << size);
            prop_assert_eq!(function.resizable[n].map(|r| r.sizes()), Some(bits));
        }
        prop_assert_eq!(function.resizable[0], None);
        let (n, able) = if second { (4, &b) } else { (2, &a) };
        let lied = lies && second && able.contains(&pick) && pick != b[0];
        gpu.stubborn = lied.then_some(pick);
        let before = gpu.words.clone();
        let bytes = 1_u64 << pick;
        let done = function.resize(&mut gpu, n, bytes);
        prop_assert_eq!(done, able.contains(&pick) && !lied);
        if !done {
            prop_assert_eq!(&gpu.words, &before);
        } else {
            prop_assert_eq!(gpu.size[usize::from(second)], pick);
            let again = Function::probe(&mut gpu).expect("is there");
            prop_assert_eq!(again.bars, function.bars);
            prop_assert_eq!(again.bars[n].expect("a BAR").size, bytes);
        }
        prop_assert!(!function.resize(&mut gpu, 0, 1 << 20));
        prop_assert!(!function.resize(&mut gpu, n, bytes | 1 << 17));
        // A reset takes the size away; it comes back before the address does.
        let chosen = gpu.size;
        function.reset(&mut gpu);
        prop_assert_eq!(gpu.size, gpu.default);
        function.restore_sizes(&mut gpu);
        prop_assert_eq!(gpu.size, chosen);
        let mut guest = Emulated::new(&mut gpu, &function, false, false);
        let at = 0x10 + n as u16 * 4;
        for at in [at, at + 4] {
            let write = guest.understand(at, 4, 0xffff_ffff);
            guest.apply(write);
        }
        let seen = guest.read(at, 4) | guest.read(at + 4, 4) << 32;
        let size = 1_u64 << chosen[usize::from(second)];
        prop_assert_eq!((seen & !0xf).wrapping_neg(), size);
        prop_assert!((0x100..4096).step_by(4).all(|at| guest.read(at, 4) == 0));
    }
}

/// A host with this one function, shared with whoever looks at it.
struct One(Rc<RefCell<Gpu>>, Option<Found>);

struct Handle(Option<Rc<RefCell<Gpu>>>);

impl Config for Handle {
    fn read(&mut self, offset: u16) -> u32 {
        let gpu = self.0.as_ref();
        gpu.map_or(u32::MAX, |gpu| gpu.borrow_mut().read(offset))
    }
    fn write(&mut self, offset: u16, value: u32) {
        if let Some(gpu) = &self.0 {
            gpu.borrow_mut().write(offset, value);
        }
    }
}

impl Host for One {
    type Function = Handle;
    fn function(&mut self, address: Address) -> Handle {
        Handle((address.raw() == 8).then(|| self.0.clone()))
    }
    fn found(&mut self, found: Found) {
        self.1 = Some(found);
    }
    fn no_room(&mut self, _: Address, bar: usize, bytes: u64) {
        panic!("no room for {bar}, {bytes:#x}");
    }
    fn closed(&mut self, _: Address, _: Closed) {}
}

#[test]
fn a_bar_lies_where_it_can_become_as_large_as_there_is_room_for() {
    const GIB: u64 = 1 << 30;
    // BAR 2: 256 MiB to 32 GiB; BAR 4: 1 MiB, or 64 TiB.
    let gpu = Gpu::new([(28..=35).collect(), vec![20, 46]], [28, 20]);
    let mut host = One(Rc::new(RefCell::new(gpu)), None);
    let low = Window {
        base: 0x1000_0000,
        bytes: 1 << 28,
    };
    let high = Window {
        base: 0x80_0000_0000,
        bytes: 40 * GIB,
    };
    let mut windows = Windows::new(Some(low), Some(high));
    enumerate(&mut host, 0, 0, &mut windows);
    let found = host.1.expect("is found");
    // 16 GiB is the largest that fits beside BAR 0; what they have is as it was.
    assert_eq!(found.room, [1 << 20, 0, 16 * GIB, 0, 1 << 20, 0]);
    assert_eq!(found.placed[2].map(|at| at % (16 * GIB)), Some(0));
    assert_eq!(found.function.bars[2].map(|bar| bar.size), Some(1 << 28));
    assert_eq!(
        found.function.bars[2].map(|bar| bar.kind),
        Some(Kind::Memory64)
    );
}
