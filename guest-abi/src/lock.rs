//! A queued spin lock (MCS) for guests that knows when spinning is in vain.
//!
//! Each waiter spins on a word of its own until its predecessor hands the lock on. Where
//! there are more vCPUs than cores that predecessor, or the holder, may be one that the
//! hypervisor has switched out: all who wait then burn their turns for nothing. With a
//! [`Hint`] a waiter sees that (`vcpu_is_preempted`), stops spinning and gives its core to
//! the one that everybody waits for. Without, this is the lock an ordinary kernel has.

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

/// One vCPU's place in the queue. A line of its own, so that spinning stays in its cache.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    /// Who comes next, plus one; 0 for nobody yet.
    next: AtomicUsize,
    granted: AtomicBool,
    /// It has given its core away: it does not run either, though of its own will.
    away: AtomicBool,
}

/// A lock for `N` vCPUs.
#[derive(Debug)]
pub struct Lock<const N: usize> {
    /// Who came last, plus one; 0 if the lock is free.
    tail: AtomicUsize,
    /// Who has it, or had it last.
    holder: AtomicUsize,
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
            tail: AtomicUsize::new(0),
            holder: AtomicUsize::new(0),
            nodes: [const {
                Node {
                    next: AtomicUsize::new(0),
                    granted: AtomicBool::new(false),
                    away: AtomicBool::new(false),
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
        self.acquire(me, node, hint);
        let result = f();
        self.release(me, node, hint);
        result
    }

    fn acquire(&self, me: usize, node: &Node, hint: &impl Hint) {
        node.next.store(0, Ordering::Relaxed);
        node.granted.store(false, Ordering::Relaxed);
        let before = self.tail.swap(me.saturating_add(1), Ordering::AcqRel);
        if let Some(before) = before.checked_sub(1)
            && let Some(theirs) = self.nodes.get(before)
        {
            theirs.next.store(me.saturating_add(1), Ordering::Release);
            let mut turns = 0_u32;
            while !node.granted.load(Ordering::Acquire) {
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(LOOK_EVERY) {
                    self.look(before, node, hint);
                }
                hint.relax();
            }
        }
        self.holder.store(me, Ordering::Relaxed);
    }

    /// Gives the core away if spinning on it is in vain.
    fn look(&self, before: usize, node: &Node, hint: &impl Hint) {
        // The holder first: until it has run, its successor has nothing to do either.
        let holder = self.holder.load(Ordering::Relaxed);
        let is_away = |vcpu: usize| {
            let node = self.nodes.get(vcpu);
            hint.is_preempted(vcpu) || node.is_some_and(|node| node.away.load(Ordering::Relaxed))
        };
        if let Some(vcpu) = [holder, before].into_iter().find(|vcpu| is_away(*vcpu)) {
            node.away.store(true, Ordering::Relaxed);
            hint.yield_to(vcpu);
            node.away.store(false, Ordering::Relaxed);
        }
    }

    fn release(&self, me: usize, node: &Node, hint: &impl Hint) {
        let mine = me.saturating_add(1);
        let mut next = node.next.load(Ordering::Acquire);
        if next == 0 {
            let free = self
                .tail
                .compare_exchange(mine, 0, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                return;
            }
            // Somebody came, and is about to say who.
            while next == 0 {
                hint.relax();
                next = node.next.load(Ordering::Acquire);
            }
        }
        if let Some(next) = next.checked_sub(1).and_then(|next| self.nodes.get(next)) {
            next.granted.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicU64;
    use std::thread;
    use std::vec::Vec;

    /// A machine on which `preempted` is always out.
    struct Always(usize, AtomicU64);

    impl Hint for Always {
        fn is_preempted(&self, vcpu: usize) -> bool {
            vcpu == self.0
        }
        /// To the preempted one, or to one that has itself given its core away.
        fn yield_to(&self, _: usize) {
            self.1.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        fn relax(&self) {
            thread::yield_now();
        }
    }

    #[test]
    fn two_never_hold_the_lock_at_once_and_all_get_it() {
        const VCPUS: usize = 6;
        const ROUNDS: u64 = 2_000;
        let lock = Lock::<VCPUS>::new();
        let (inside, sum) = (AtomicBool::new(false), AtomicU64::new(0));
        let hint = Always(3, AtomicU64::new(0));
        thread::scope(|scope| {
            let threads: Vec<_> = (0..VCPUS)
                .map(|me| {
                    let (lock, inside, sum, hint) = (&lock, &inside, &sum, &hint);
                    scope.spawn(move || {
                        for _ in 0..ROUNDS {
                            lock.with(me, hint, || {
                                assert!(!inside.swap(true, Ordering::Relaxed));
                                // Not atomic: the lock is what makes it right.
                                let old = sum.load(Ordering::Relaxed);
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
        assert_eq!(sum.into_inner(), ROUNDS * VCPUS as u64);
    }

    #[test]
    fn one_that_waits_behind_a_preempted_holder_yields_to_it() {
        let lock = Lock::<2>::new();
        let hint = Always(0, AtomicU64::new(0));
        thread::scope(|scope| {
            let waiter = lock.with(0, &hint, || {
                let waiter = scope.spawn(|| lock.with(1, &hint, || ()));
                while hint.1.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
                waiter
            });
            waiter.join().expect("gets the lock");
        });
        assert!(hint.1.into_inner() > 0);
    }
}
