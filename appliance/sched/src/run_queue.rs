//! A bounded queue of vCPU numbers.

/// The queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One core's runnable vCPUs, in the order they will run. Holds at most `N`.
///
/// The owner sees to it that a vCPU is queued at most once.
#[derive(Debug)]
pub struct RunQueue<const N: usize> {
    ring: [u16; N],
    head: usize,
    len: usize,
}

impl<const N: usize> Default for RunQueue<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> RunQueue<N> {
    /// Creates an empty queue.
    pub const fn new() -> Self {
        Self {
            ring: [0; N],
            head: 0,
            len: 0,
        }
    }

    /// Returns how many wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no one waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns who runs next.
    pub fn first(&self) -> Option<u16> {
        if self.len == 0 {
            return None;
        }
        self.ring.get(self.head).copied()
    }

    /// Adds `vcpu` behind all others.
    pub fn push_back(&mut self, vcpu: u16) -> Result<(), Full> {
        self.put(self.len, vcpu)
    }

    /// Adds `vcpu` before all others.
    pub fn push_front(&mut self, vcpu: u16) -> Result<(), Full> {
        if self.len == N {
            return Err(Full);
        }
        self.head = self.slot(N.wrapping_sub(1));
        self.put(0, vcpu)
    }

    /// Takes the vCPU that runs next.
    pub fn pop(&mut self) -> Option<u16> {
        if self.len == 0 {
            return None;
        }
        let vcpu = self.ring.get(self.head).copied();
        self.head = self.slot(1);
        self.len = self.len.saturating_sub(1);
        vcpu
    }

    /// Returns the index `n` behind the head, for `n` below `2 * N`.
    const fn slot(&self, n: usize) -> usize {
        let at = self.head.wrapping_add(n);
        if at >= N { at.wrapping_sub(N) } else { at }
    }

    fn put(&mut self, n: usize, vcpu: u16) -> Result<(), Full> {
        if self.len == N {
            return Err(Full);
        }
        let at = self.slot(n);
        *self.ring.get_mut(at).ok_or(Full)? = vcpu;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Back(u16),
        Front(u16),
        Pop,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            any::<u16>().prop_map(Op::Back),
            any::<u16>().prop_map(Op::Front),
            Just(Op::Pop),
        ]
    }

    proptest! {
        /// The ring behaves as a double-ended queue that refuses what does not fit.
        #[test]
        fn the_ring_agrees_with_a_deque(ops in proptest::collection::vec(op(), 0..200)) {
            let mut queue = RunQueue::<5>::new();
            let mut model = VecDeque::new();
            for op in ops {
                match op {
                    Op::Back(v) => {
                        let fits = model.len() < 5;
                        prop_assert_eq!(queue.push_back(v).is_ok(), fits);
                        if fits { model.push_back(v); }
                    }
                    Op::Front(v) => {
                        let fits = model.len() < 5;
                        prop_assert_eq!(queue.push_front(v).is_ok(), fits);
                        if fits { model.push_front(v); }
                    }
                    Op::Pop => prop_assert_eq!(queue.pop(), model.pop_front()),
                }
                prop_assert_eq!(queue.first(), model.front().copied());
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
            let rest: Vec<u16> = core::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(rest, Vec::from(model));
        }
    }
}
