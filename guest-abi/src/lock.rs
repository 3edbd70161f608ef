//! A lock for guests whose waiters know when spinning is in vain.
//!
//! Who finds the lock taken waits in a queue, each on a word of its own; the first of them
//! watches the lock. That is how a kernel spins for a mutex whose holder runs. Where there are
//! more vCPUs than cores, the holder, or whoever is before one in the queue, may be one that
//! the hypervisor has switched out: all who wait then burn their turns for nothing. With a
//! [`Hint`] a waiter sees that (`vcpu_is_preempted`). It leaves the queue, and gives its core
//! to the holder, or else watches the lock beside the queue. Without, it spins.
//!
//! Who asks for a lock that is free has it at once, whoever waits: what runs goes on.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a waiter may know and do.
pub trait Hint {
    /// Returns whether `vcpu` was switched out against its will (see [`crate::pv`]).
    fn is_preempted(&self, vcpu: usize) -> bool;
    /// Gives this core to `vcpu` ([`crate::pv::Call::YieldTo`]).
    fn yield_to(&self, vcpu: usize);
    /// Says that this is a spin loop.
    fn relax(&self);
}

/// Turns of the waiting loop between two looks at the hint: looking fetches a line that the
/// hypervisor writes.
const LOOK_EVERY: u32 = 32;

/// vCPU `n` is written as n + 1 in words that can also say "nobody".
const NOBODY: usize = 0;

/// One vCPU's place in the queue. A line of its own, so that spinning stays in its cache.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    /// Who comes next.
    next: AtomicUsize,
    /// Who is before.
    before: AtomicUsize,
    /// Nobody is before any more.
    first: AtomicBool,
}

/// How waiting ended.
enum Waited {
    /// The lock is the waiter's.
    Taken,
    /// The holder does not run. The waiter is in the queue no more.
    InVain(usize),
}

/// A lock for `N` vCPUs.
#[derive(Debug)]
pub struct Lock<const N: usize> {
    /// Who has it.
    holder: AtomicUsize,
    /// Who is last in the queue.
    tail: AtomicUsize,
    nodes: [Node; N],
}

impl<const N: usize> Default for Lock<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Lock<N> {
    /// Creates a lock that is free.
    pub const fn new() -> Self {
        Self {
            holder: AtomicUsize::new(NOBODY),
            tail: AtomicUsize::new(NOBODY),
            nodes: [const {
                Node {
                    next: AtomicUsize::new(NOBODY),
                    before: AtomicUsize::new(NOBODY),
                    first: AtomicBool::new(false),
                }
            }; N],
        }
    }

    /// Runs `f` with the lock held by vCPU `me`, which is below `N` and does not hold it.
    /// Nobody else may call as `me` meanwhile.
    pub fn with<T>(&self, me: usize, hint: &impl Hint, f: impl FnOnce() -> T) -> T {
        let Some(node) = self.nodes.get(me) else {
            panic!("a lock for {N} vCPUs is asked for by vCPU {me}");
        };
        let me = me.saturating_add(1);
        while !self.try_take(me) {
            match self.wait(me, node, hint) {
                Waited::Taken => break,
                Waited::InVain(holder) => hint.yield_to(holder.saturating_sub(1)),
            }
        }
        let result = f();
        self.holder.store(NOBODY, Ordering::Release);
        result
    }

    fn node(&self, vcpu: usize) -> Option<&Node> {
        self.nodes.get(vcpu.checked_sub(1)?)
    }

    fn try_take(&self, me: usize) -> bool {
        // Looking first leaves the line shared while the lock is taken.
        self.holder.load(Ordering::Relaxed) == NOBODY
            && self
                .holder
                .compare_exchange(NOBODY, me, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    fn holder_in_vain(&self, hint: &impl Hint) -> Option<usize> {
        let holder = self.holder.load(Ordering::Relaxed);
        let vcpu = holder.checked_sub(1)?;
        hint.is_preempted(vcpu).then_some(holder)
    }

    /// Waits in the queue, then for the lock.
    fn wait(&self, me: usize, node: &Node, hint: &impl Hint) -> Waited {
        node.next.store(NOBODY, Ordering::Relaxed);
        node.first.store(false, Ordering::Relaxed);
        let before = self.tail.swap(me, Ordering::AcqRel);
        if let Some(theirs) = self.node(before) {
            node.before.store(before, Ordering::Relaxed);
            theirs.next.store(me, Ordering::Release);
            let mut turns = 0_u32;
            while !node.first.load(Ordering::Acquire) {
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(LOOK_EVERY) {
                    let holder = self.holder_in_vain(hint);
                    let before = node.before.load(Ordering::Relaxed).saturating_sub(1);
                    if (holder.is_some() || hint.is_preempted(before))
                        && self.step_out(me, node, hint)
                    {
                        return match holder {
                            Some(holder) => Waited::InVain(holder),
                            None => self.watch(me, hint),
                        };
                    }
                }
                hint.relax();
            }
        }
        let waited = self.watch(me, hint);
        let next = self.cut_off(me, node, NOBODY, hint);
        if let Some(next) = next.and_then(|next| self.node(next)) {
            next.first.store(true, Ordering::Release);
        }
        waited
    }

    /// Spins on the lock itself.
    fn watch(&self, me: usize, hint: &impl Hint) -> Waited {
        let mut turns = 0_u32;
        while !self.try_take(me) {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(LOOK_EVERY)
                && let Some(holder) = self.holder_in_vain(hint)
            {
                return Waited::InVain(holder);
            }
            hint.relax();
        }
        Waited::Taken
    }

    /// Leaves the queue from its middle; returns false if there is no need, since nobody is
    /// before any more.
    fn step_out(&self, me: usize, node: &Node, hint: &impl Hint) -> bool {
        // Without its way to here, the one before can neither make this one the first nor
        // leave: it waits until it is told who is next. It may itself be leaving just now; then
        // it says who is before instead.
        let before = loop {
            let before = node.before.load(Ordering::Acquire);
            let cut = self.node(before).is_some_and(|theirs| {
                theirs
                    .next
                    .compare_exchange(me, NOBODY, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            });
            if cut {
                break before;
            }
            if node.first.load(Ordering::Acquire) {
                return false;
            }
            hint.relax();
        };
        let Some(next) = self.cut_off(me, node, before, hint) else {
            return true;
        };
        if let (Some(behind), Some(ahead)) = (self.node(next), self.node(before)) {
            behind.before.store(before, Ordering::Release);
            ahead.next.store(next, Ordering::Release);
        }
        true
    }

    /// Takes the way to the one behind, who is returned; `None` if nobody is, and `instead` is last now.
    fn cut_off(&self, me: usize, node: &Node, instead: usize, hint: &impl Hint) -> Option<usize> {
        loop {
            let last = self
                .tail
                .compare_exchange(me, instead, Ordering::AcqRel, Ordering::Relaxed);
            if last.is_ok() {
                return None;
            }
            // Somebody came, and is about to say who; or is about to leave.
            let next = node.next.swap(NOBODY, Ordering::AcqRel);
            if next != NOBODY {
                return Some(next);
            }
            hint.relax();
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed, which is what is meant"
)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicU64;
    use std::thread;
    use std::vec::Vec;

    /// A machine on which vCPUs are out as `says` has it, for each look anew.
    struct Machine<F> {
        says: F,
        looks: AtomicU64,
        yields: AtomicU64,
    }

    impl<F: Fn(usize, u64) -> bool> Machine<F> {
        fn new(says: F) -> Self {
            Self {
                says,
                looks: AtomicU64::new(0),
                yields: AtomicU64::new(0),
            }
        }
    }

    impl<F: Fn(usize, u64) -> bool> Hint for Machine<F> {
        fn is_preempted(&self, vcpu: usize) -> bool {
            (self.says)(vcpu, self.looks.fetch_add(1, Ordering::Relaxed))
        }
        fn yield_to(&self, _: usize) {
            self.yields.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        fn relax(&self) {
            thread::yield_now();
        }
    }

    const VCPUS: usize = 6;

    /// All vCPUs take the lock over and over; fails if two ever have it.
    fn contend(hint: &(impl Hint + Sync), rounds: u64) {
        let lock = Lock::<VCPUS>::new();
        let (inside, sum) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let threads: Vec<_> = (0..VCPUS)
                .map(|me| {
                    let (lock, inside, sum) = (&lock, &inside, &sum);
                    scope.spawn(move || {
                        for _ in 0..rounds {
                            lock.with(me, hint, || {
                                assert!(!inside.swap(true, Ordering::Relaxed));
                                // Not atomic: the lock is what makes it right.
                                let old = sum.load(Ordering::Relaxed);
                                thread::yield_now();
                                sum.store(old + 1, Ordering::Relaxed);
                                inside.store(false, Ordering::Relaxed);
                            });
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("no assertion failed");
            }
        });
        assert_eq!(sum.into_inner(), rounds * VCPUS as u64);
        // Nobody is left in the queue.
        assert_eq!(lock.tail.into_inner(), NOBODY);
        assert_eq!(lock.holder.into_inner(), NOBODY);
    }

    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 3_000 };

    #[test]
    fn all_get_it_one_by_one_without_a_hint() {
        contend(&Machine::new(|_, _| false), ROUNDS);
    }

    /// Waiters leave the queue at its end, in its middle, and side by side, at every point.
    #[test]
    fn all_get_it_one_by_one_whatever_the_hint_says() {
        for odds in [2, 3, 7] {
            let machine = Machine::new(move |vcpu, look| {
                (look ^ vcpu as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < 256 / odds
            });
            contend(&machine, ROUNDS);
            assert!(machine.yields.into_inner() > 0);
        }
        contend(&Machine::new(|_, _| true), ROUNDS);
    }

    #[test]
    fn one_that_waits_for_a_preempted_holder_yields_to_it() {
        let lock = Lock::<2>::new();
        let hint = Machine::new(|vcpu, _| vcpu == 0);
        thread::scope(|scope| {
            let waiter = lock.with(0, &hint, || {
                let waiter = scope.spawn(|| lock.with(1, &hint, || ()));
                while hint.yields.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
                waiter
            });
            waiter.join().expect("gets the lock");
        });
        assert!(hint.yields.into_inner() > 0);
    }

    /// vCPU 1 is first in the queue and never comes back to it: 2 has the lock all the same.
    #[test]
    fn one_behind_a_preempted_waiter_goes_past_it() {
        let lock = Lock::<3>::new();
        lock.tail.store(2, Ordering::Relaxed);
        let hint = Machine::new(|vcpu, _| vcpu == 1);
        lock.holder.store(1, Ordering::Relaxed);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.with(2, &hint, || ()));
            while hint.looks.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            lock.holder.store(NOBODY, Ordering::Release);
            waiter.join().expect("gets the lock");
        });
        assert_eq!(lock.tail.into_inner(), 2, "vCPU 1 still waits");
    }
}
