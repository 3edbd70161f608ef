//! What takes long with one large leaf, a part at a time: its frame is copied to another, or
//! looked at for zeroes.
//!
//! Between two parts the VM's lock is let go and its vCPUs run. So the leaf is *held* meanwhile:
//! nobody may write through it, and it can be read as ever. A held leaf is as good as any other
//! to all but who writes: that takes the hold off ([`Gmap::let_go`]), or, while it moves, helps to
//! get it done ([`Gmap::help`]). Nothing else makes a leaf held; so one that is held still, with
//! the frame it had, holds what it held when the work began, and what is done of it is good.
//!
//! One leaf a VM at a time. Whoever begins another ends this one.

use crate::desc::{Entry, Leaf};
use crate::gather::{Flush, Gather};
use crate::level::Level;
use crate::machine::Machine;
use crate::space::Gmap;
use crate::walk::Place;
use arch::{Ipa, Pa};

/// Order of one part: 32 KiB, which are copied in about 7,000 instructions.
const PART_ORDER: u8 = 3;
const PART_BYTES: u64 = 4096 << PART_ORDER;
/// Times that a leaf is held anew to be moved before it moves page by page.
const TRIES: u8 = 3;

/// A leaf that is half done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    base: Ipa,
    level: Level,
    from: Pa,
    /// Bytes that are done.
    done: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Is copied, to here; so many times it has begun.
    Move { to: Pa, tries: u8 },
    /// Was moved to its end by a vCPU that needed it.
    Moved,
    /// Is looked at.
    Look,
}

/// How far one part of the work got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// There is more to do.
    More,
    /// All of the leaf is done.
    Whole,
    /// It does not come to its end: somebody writes there.
    Lost,
    /// There is no frame to move it to.
    Short,
}

impl Half {
    /// Returns whether `leaf`, at `base`, is the one and is as it was held.
    fn is(&self, base: Ipa, level: Level, leaf: Leaf) -> bool {
        let same = (self.base, self.level, self.from) == (base, level, leaf.base());
        same && leaf.held() && self.what != What::Moved
    }

    /// Takes the next part: where it begins in the leaf.
    fn part(&mut self) -> u64 {
        let at = self.done;
        self.done = at.saturating_add(PART_BYTES);
        at
    }

    fn whole(&self) -> bool {
        self.done >= self.level.span()
    }
}

impl Gmap {
    /// Moves a part of the block at `place`, which begins at `ipa`, to another frame.
    pub(crate) fn move_part(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        place: &mut Place,
    ) -> Part {
        let (Entry::Leaf(leaf), level) = (place.entry(), place.level) else {
            return Part::Whole;
        };
        match self.half {
            Some(half) if half.is(ipa, level, leaf) && half.what != What::Look => {
                return self.copy_part(machine, ipa, place);
            }
            Some(Half { base, what, .. }) if base == ipa && what == What::Moved => {
                self.half = None;
                return Part::Whole;
            }
            Some(Half {
                base,
                level: was,
                what: What::Move { to, tries },
                ..
            }) if (base, was) == (ipa, level) && tries < TRIES && !leaf.pinned() => {
                let tries = tries.saturating_add(1);
                self.hold(machine, ipa, place, What::Move { to, tries });
            }
            Some(Half {
                base,
                what: What::Move { .. },
                ..
            }) if base == ipa => {
                self.end_half(machine);
                return Part::Lost;
            }
            // A page that a vCPU cannot run without is written again before the copy is done.
            _ if leaf.pinned() => return Part::Lost,
            _ => {
                self.end_half(machine);
                let Some(to) = machine.alloc(level.order()) else {
                    return Part::Short;
                };
                self.hold(machine, ipa, place, What::Move { to, tries: 0 });
            }
        }
        Part::More
    }

    fn copy_part(&mut self, machine: &mut impl Machine, ipa: Ipa, place: &mut Place) -> Part {
        let Some(half) = self.half.as_mut() else {
            return Part::Lost;
        };
        let What::Move { to, .. } = half.what else {
            return Part::Lost;
        };
        if !half.whole() {
            let offset = half.part();
            machine.copy(inside(to, offset), inside(half.from, offset), PART_ORDER);
        }
        if !half.whole() {
            return Part::More;
        }
        self.half = None;
        let level = place.level;
        let old = self.remake(machine, ipa, place, |_, old: Leaf| {
            let moved = old.with_base(to).with_own().with_no_notice();
            moved.descriptor()
        });
        let Some(old) = old else {
            machine.free(to, level.order());
            return Part::Lost;
        };
        let mut gather = Gather::new(self.vmid, self.wipes());
        gather.frame(machine, old, level);
        gather.complete(machine);
        self.counters.moved();
        Part::Whole
    }

    /// Looks at a part of the block at `place`, which begins at `ipa`: [`Part::Whole`] when all
    /// of it was seen to be zeroes, and nobody has written there since.
    pub(crate) fn look_part(
        &mut self,
        machine: &mut impl Machine,
        ipa: Ipa,
        place: &mut Place,
    ) -> Part {
        let (Entry::Leaf(leaf), level) = (place.entry(), place.level) else {
            return Part::Lost;
        };
        let Some(half) = self.half.as_mut().filter(|half| half.what == What::Look) else {
            self.end_half(machine);
            self.hold(machine, ipa, place, What::Look);
            return Part::More;
        };
        if half.base != ipa || half.level != level {
            self.end_half(machine);
            self.hold(machine, ipa, place, What::Look);
            return Part::More;
        }
        if !half.is(ipa, level, leaf) {
            self.half = None;
            return Part::Lost;
        }
        if !half.whole() {
            let offset = half.part();
            if !machine.is_zero(inside(half.from, offset), PART_ORDER) {
                self.end_half(machine);
                place.reread(machine);
                return Part::Lost;
            }
        }
        if !half.whole() {
            return Part::More;
        }
        self.half = None;
        Part::Whole
    }

    /// Holds the leaf at `place`: when this returns nobody can write through it.
    fn hold(&mut self, machine: &impl Machine, ipa: Ipa, place: &mut Place, what: What) {
        let mut flush = Flush::new(self.vmid);
        let old = self.alter(machine, ipa, place, &mut flush, Leaf::with_read_only);
        flush.complete(machine);
        // There is a leaf: the lock is held exclusively since it was seen.
        self.half = old.map(|leaf| Half {
            base: ipa,
            level: place.level,
            from: leaf.base(),
            done: 0,
            what,
        });
    }

    /// Gives up what is half done, if anything: as if it had never begun.
    pub(crate) fn end_half(&mut self, machine: &mut impl Machine) {
        let Some(half) = self.half.take() else { return };
        if let What::Move { to, .. } = half.what {
            machine.free(to, half.level.order());
        }
        if self.contains(half.base) {
            self.let_go(machine, half.base);
        }
    }

    /// Ends what is half done below `at`, or anywhere if nothing comes behind it.
    pub(crate) fn end_half_before(&mut self, machine: &mut impl Machine, at: Option<u64>) {
        let passed = |half: &Half| {
            let end = half.base.raw().saturating_add(half.level.span());
            at.is_none_or(|at| end <= at)
        };
        if self.half.as_ref().is_some_and(passed) {
            self.end_half(machine);
        }
    }

    /// Returns whether the held `leaf` at `base` is on its way to another frame.
    pub(crate) fn moves(&self, base: Ipa, level: Level, leaf: Leaf) -> bool {
        let half = self.half.as_ref();
        half.is_some_and(|half| half.what != What::Look && half.is(base, level, leaf))
    }

    /// Takes the hold off the leaf at `ipa`, if it is held: who writes there may. Under the VM's
    /// lock held shared.
    pub fn let_go(&self, machine: &impl Machine, ipa: Ipa) {
        let mut place = self.place(machine, ipa);
        let base = ipa.align_down(place.level.span());
        let mut flush = Flush::new(self.vmid);
        let free = |leaf: Leaf| if leaf.held() { leaf.with_own() } else { leaf };
        self.alter(machine, base, &mut place, &mut flush, free);
        flush.complete(machine);
    }

    /// Does a part of the move that holds the leaf at `ipa`, for a vCPU that is to write there.
    /// Returns whether it is still to wait.
    pub fn help(&mut self, machine: &mut impl Machine, ipa: Ipa) -> bool {
        if !self.contains(ipa) {
            return false;
        }
        let mut place = self.place(machine, ipa);
        let (base, level) = (ipa.align_down(place.level.span()), place.level);
        let Entry::Leaf(leaf) = place.entry() else {
            return false;
        };
        if !self.moves(base, level, leaf) {
            return false;
        }
        let Some(half) = self.half else { return false };
        self.sequence
            .begin(base.raw(), base.raw().saturating_add(level.span()));
        let part = self.copy_part(machine, base, &mut place);
        self.sequence.end();
        if part == Part::Whole {
            // Whoever began it is told when it comes again.
            let what = What::Moved;
            self.half = Some(Half { what, ..half });
        }
        part == Part::More
    }
}

/// Returns the address `offset` bytes into a frame.
fn inside(frame: Pa, offset: u64) -> Pa {
    let at = frame.checked_add(offset);
    at.expect("a frame lies below 2^48")
}
