//! The order of locks, checked.
//!
//! 1 the VM's lock, shared or exclusive; 2 the list of shadows; 3 the reverse map of a
//! shadow; 4 the lock of a page's word. One is taken while only lower ones are held. The one
//! exception: while the list of shadows is held, the lock of a page is only *tried*, because
//! the ordinary order there is the other way round (seed-spec B.3).
//!
//! Core keeps a [`Held`] a CPU and asks it before it takes a VM's lock: a few instructions, and
//! what would be a core that waits for itself for ever is a report.

/// A lock, in the order they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The VM's lock.
    Vm,
    /// The list of shadows of a space.
    Children,
    /// The reverse map of one shadow.
    ReverseMap,
    /// The lock of one page's sidecar word.
    Page,
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Until it is there.
    Wait,
    /// Only if it is free now.
    Try,
}

/// A lock was asked for that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderViolation {
    /// The lock that is held already.
    pub held: Rank,
    /// The lock that was asked for.
    pub asked: Rank,
}

/// The locks that one CPU holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held(u8);

impl Held {
    const fn bit(rank: Rank) -> u8 {
        match rank {
            Rank::Vm => 1,
            Rank::Children => 2,
            Rank::ReverseMap => 4,
            Rank::Page => 8,
        }
    }

    /// Returns what [`Self::bits`] returned.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// Returns the locks as bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the locks with which `rank` must not be asked for.
    const fn forbidden(rank: Rank, ask: Ask) -> u8 {
        let shadows = Self::bit(Rank::Children) | Self::bit(Rank::ReverseMap);
        match (rank, ask) {
            (Rank::Vm, _) => 0xf,
            // A page is held when shadows are looked for: that is the ordinary order.
            (Rank::Children, _) => shadows,
            (Rank::ReverseMap, _) => Self::bit(Rank::ReverseMap),
            (Rank::Page, Ask::Wait) => shadows | Self::bit(Rank::Page),
            (Rank::Page, Ask::Try) => Self::bit(Rank::Page),
        }
    }

    /// Notes that `rank` is about to be taken, or refuses.
    #[inline]
    pub fn take(&mut self, rank: Rank, ask: Ask) -> Result<(), OrderViolation> {
        if self.0 & Self::forbidden(rank, ask) != 0 {
            return Err(self.violation(rank, ask));
        }
        self.0 |= Self::bit(rank);
        Ok(())
    }

    #[cold]
    fn violation(self, asked: Rank, ask: Ask) -> OrderViolation {
        let ranks = [Rank::Vm, Rank::Children, Rank::ReverseMap, Rank::Page];
        let bad = |held: &Rank| self.0 & Self::forbidden(asked, ask) & Self::bit(*held) != 0;
        let held = ranks.into_iter().find(bad).unwrap_or(asked);
        OrderViolation { held, asked }
    }

    /// Notes that `rank` was let go.
    #[inline]
    pub fn release(&mut self, rank: Rank) {
        self.0 &= !Self::bit(rank);
    }

    /// Returns whether `rank` is held.
    pub fn holds(&self, rank: Rank) -> bool {
        self.0 & Self::bit(rank) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b41_locks_are_taken_in_one_order_and_a_page_is_only_tried_under_the_shadows() {
        let mut held = Held::default();
        held.take(Rank::Vm, Ask::Wait).expect("first");
        held.take(Rank::Page, Ask::Wait).expect("innermost");
        held.take(Rank::Children, Ask::Wait)
            .expect("page, then shadows");
        held.take(Rank::ReverseMap, Ask::Wait)
            .expect("then their map");
        assert!(held.take(Rank::Vm, Ask::Wait).is_err());
        held.release(Rank::Page);
        assert!(held.take(Rank::Page, Ask::Wait).is_err());
        held.take(Rank::Page, Ask::Try).expect("tried only");
        assert!(held.take(Rank::Page, Ask::Try).is_err());
    }
}
