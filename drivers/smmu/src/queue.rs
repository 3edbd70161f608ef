//! How far a queue is (IHI 0070, 3.5.1): an index, and above it a bit that turns at each wrap.

/// A queue of `1 << bits` entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    bits: u8,
}

impl Ring {
    /// A queue of `1 << bits` entries, 19 bits at the most.
    pub const fn new(bits: u8) -> Self {
        Self {
            bits: if bits > 19 { 19 } else { bits },
        }
    }

    /// log2 of its entries.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Returns the entry that a producer or consumer register points to.
    pub const fn index(self, register: u32) -> u32 {
        register & (1_u32 << self.bits).wrapping_sub(1)
    }

    /// Returns the register one entry further on.
    pub const fn next(self, register: u32) -> u32 {
        register.wrapping_add(1) & (2_u32 << self.bits).wrapping_sub(1)
    }

    /// Returns whether nothing is between them.
    pub const fn is_empty(self, producer: u32, consumer: u32) -> bool {
        let mask = (2_u32 << self.bits).wrapping_sub(1);
        (producer ^ consumer) & mask == 0
    }

    /// Returns whether the producer has to wait.
    pub const fn is_full(self, producer: u32, consumer: u32) -> bool {
        let mask = (2_u32 << self.bits).wrapping_sub(1);
        (producer ^ consumer) & mask == 1 << self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_after_as_many_as_it_holds_and_not_before() {
        for bits in 0..=3 {
            let ring = Ring::new(bits);
            for start in 0..2_u32 << bits {
                let (mut producer, consumer) = (start, start);
                for n in 0..1_u32 << bits {
                    assert_eq!(ring.is_empty(producer, consumer), n == 0);
                    assert!(!ring.is_full(producer, consumer));
                    assert_eq!(ring.index(producer), (start + n) % (1 << bits));
                    producer = ring.next(producer);
                }
                assert!(ring.is_full(producer, consumer));
                // Flags in the upper bits of the registers do not count.
                assert!(ring.is_full(producer, consumer | 0x7f00_0000));
            }
        }
    }
}
