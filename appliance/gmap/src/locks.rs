//! The order of locks, checked.
//!
//! 1 the VM's lock, shared or exclusive; 2 the list of shadows; 3 the reverse map of a
//! shadow; 4 the lock of a page's word. One is taken while only lower ones are held. The one
//! exception: while the list of shadows is held, the lock of a page is only *tried*, because
//! the ordinary order there is the other way round (seed-spec B.3).
//!
//! Core keeps a [`Held`] a CPU in debug builds and asks it before each lock.

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

    /// Notes that `rank` is about to be taken, or refuses.
    pub fn take(&mut self, rank: Rank, ask: Ask) -> Result<(), OrderViolation> {
        let ranks = [Rank::Vm, Rank::Children, Rank::ReverseMap, Rank::Page];
        let bad = |held: &Rank| {
            let with_page = *held == Rank::Children || *held == Rank::ReverseMap;
            *held >= rank
                // A page is held when shadows are looked for: that is the ordinary order.
                && !(*held == Rank::Page && rank != Rank::Vm && rank != Rank::Page)
                || rank == Rank::Page && with_page && ask == Ask::Wait
        };
        let mut held = ranks.into_iter().filter(|held| self.holds(*held));
        if let Some(held) = held.find(bad) {
            return Err(OrderViolation { held, asked: rank });
        }
        self.0 |= Self::bit(rank);
        Ok(())
    }

    /// Notes that `rank` was let go.
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
