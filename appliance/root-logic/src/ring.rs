//! A ring of bytes between core and root (guest-abi, `vm_shared`).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// One ring: indices run freely and wrap at 2^32; byte `i` lies at `i` modulo the length,
/// a power of two. One side puts, the other takes, at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    /// The bytes.
    pub bytes: &'a [AtomicU8],
    /// Index of the next byte to be put; only the putting side writes it.
    pub head: &'a AtomicU32,
    /// Index of the next byte to be taken; only the taking side writes it.
    pub tail: &'a AtomicU32,
}

impl Ring<'_> {
    /// Takes bytes out, at most as many as the ring can hold; returns how many.
    pub fn take(&self, out: &mut [u8]) -> usize {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        let mut taken = 0_usize;
        for (to, _) in out.iter_mut().zip(self.bytes) {
            if tail == head {
                break;
            }
            let Some(byte) = self.at(tail) else { break };
            *to = byte.load(Ordering::Relaxed);
            tail = tail.wrapping_add(1);
            taken = taken.saturating_add(1);
        }
        self.tail.store(tail, Ordering::Release);
        taken
    }

    /// Puts bytes in; returns how many fitted.
    pub fn put(&self, input: &[u8]) -> usize {
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Acquire);
        let mut put = 0_usize;
        for from in input {
            let held = usize::try_from(head.wrapping_sub(tail)).unwrap_or(usize::MAX);
            if held >= self.bytes.len() {
                break;
            }
            let Some(byte) = self.at(head) else { break };
            byte.store(*from, Ordering::Relaxed);
            head = head.wrapping_add(1);
            put = put.saturating_add(1);
        }
        self.head.store(head, Ordering::Release);
        put
    }

    /// Returns how many bytes were ever taken, modulo 2^32, and the last of them that are still
    /// there, at most `most`. The putting side may go on meanwhile.
    pub fn backlog(&self, most: usize) -> (u32, Vec<u8>) {
        let tail = self.tail.load(Ordering::Relaxed);
        let most = u32::try_from(most.min(self.bytes.len())).unwrap_or(u32::MAX);
        let from = tail.wrapping_sub(most);
        let mut last: Vec<u8> = (0..most)
            .filter_map(|n| self.at(from.wrapping_add(n)))
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        // What was put since lies where the oldest were.
        let held = self.head.load(Ordering::Acquire).wrapping_sub(tail);
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        let good = self.bytes.len().saturating_sub(held).min(last.len());
        last.drain(..last.len().saturating_sub(good));
        (tail, last)
    }

    fn at(&self, index: u32) -> Option<&AtomicU8> {
        let mask = self.bytes.len().checked_sub(1)?;
        self.bytes.get(usize::try_from(index).ok()? & mask)
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec;

    struct Memory {
        bytes: Vec<AtomicU8>,
        head: AtomicU32,
        tail: AtomicU32,
    }

    impl Memory {
        fn new(len: usize, index: u32) -> Self {
            Self {
                bytes: (0..len).map(|_| AtomicU8::new(0)).collect(),
                head: AtomicU32::new(index),
                tail: AtomicU32::new(index),
            }
        }

        fn ring(&self) -> Ring<'_> {
            Ring {
                bytes: &self.bytes,
                head: &self.head,
                tail: &self.tail,
            }
        }
    }

    proptest! {
        /// Bytes come out as they went in, in order, wherever the indices wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(
            from in prop_oneof![Just(0), u32::MAX - 40..=u32::MAX, any::<u32>()],
            ops in prop::collection::vec((any::<bool>(), 0..24usize), 0..64),
        ) {
            let memory = Memory::new(16, from);
            let (ring, mut queue) = (memory.ring(), VecDeque::<u8>::new());
            let mut next = 0_u8;
            for (put, n) in ops {
                if put {
                    let input: Vec<u8> = (0..n).map(|k| next.wrapping_add(k as u8)).collect();
                    let fits = n.min(16 - queue.len());
                    prop_assert_eq!(ring.put(&input), fits);
                    queue.extend(&input[..fits]);
                    next = next.wrapping_add(fits as u8);
                } else {
                    let mut out = vec![0; n];
                    let taken = ring.take(&mut out);
                    prop_assert_eq!(taken, n.min(queue.len()));
                    prop_assert!(queue.drain(..taken).eq(out[..taken].iter().copied()));
                }
            }
        }

        /// Indices that claim more than a ring holds cost one ring's length, not 2^32 bytes.
        #[test]
        fn absurd_indices_are_bounded(head in any::<u32>(), tail in any::<u32>()) {
            let memory = Memory::new(16, 0);
            memory.head.store(head, Ordering::Relaxed);
            memory.tail.store(tail, Ordering::Relaxed);
            let mut out = [0; 100];
            prop_assert!(memory.ring().take(&mut out) <= 16);
            prop_assert!(memory.ring().put(&[0; 100]) <= 16);
        }
    }

    proptest! {
        /// What was taken last is found again, as far as nothing was put over it.
        #[test]
        fn the_backlog_is_what_was_taken_last(
            from in prop_oneof![Just(0), u32::MAX - 40..=u32::MAX],
            taken in 0..40_u32,
            held in 0..=16_u32,
            most in 0..20_usize,
        ) {
            let memory = Memory::new(16, from);
            let mut all = Vec::new();
            for n in 0..taken {
                memory.ring().put(&[n as u8]);
                let mut out = [0];
                memory.ring().take(&mut out);
                all.push(out[0]);
            }
            memory.ring().put(&vec![200; held as usize]);
            let most = most.min(all.len());
            let there = most.min(16 - held as usize);
            let (tail, last) = memory.ring().backlog(most);
            prop_assert_eq!(tail, from.wrapping_add(taken));
            prop_assert_eq!(&last, &all[all.len() - there..]);
        }
    }

    #[test]
    fn two_threads_pass_bytes_in_order() {
        const COUNT: usize = if cfg!(miri) { 300 } else { 200_000 };
        let memory = Memory::new(64, u32::MAX - 5);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sent = 0;
                while sent < COUNT {
                    sent += memory.ring().put(&[(sent % 251) as u8]);
                    std::thread::yield_now();
                }
            });
            let (mut received, mut out) = (0, [0; 7]);
            while received < COUNT {
                let taken = memory.ring().take(&mut out);
                for byte in &out[..taken] {
                    assert_eq!(usize::from(*byte), received % 251);
                    received += 1;
                }
                std::thread::yield_now();
            }
        });
    }
}
