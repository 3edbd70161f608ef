//! A PCI function for the first VM, watched while the VM runs.

use crate::calls::{self, Block};
use core::mem::offset_of;
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::device::{DeviceInfo, NO_FUNCTION, UNSAFE_DMA};
use payload::{mem, println};

/// Which function, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    function: u64,
    profile: u64,
    memory: u64,
    registers_bar: u64,
}

impl Order {
    /// Reads `F[:P[:M:B]]`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut numbers = text
            .split(':')
            .map(|word| u64::from_str_radix(word, 16).ok());
        Some(Self {
            function: numbers.next()??,
            profile: numbers.next().unwrap_or(Some(0))?,
            memory: numbers.next().unwrap_or(Some(NO_FUNCTION.into()))?,
            registers_bar: numbers.next().unwrap_or(Some(0))?,
        })
    }

    /// Gives it to a VM.
    pub(crate) fn assign(&self, vm: u64) -> Result<(), Status> {
        let block = Block::grant(0)?;
        let words = [
            self.function | self.memory << 16 | self.profile << 32,
            // NVMe is no use without DMA, and this root has no secrets.
            if self.profile == 1 {
                UNSAFE_DMA.into()
            } else {
                0
            } | self.registers_bar << 32,
        ];
        for (word, at) in words
            .into_iter()
            .zip((calls::window(block.pa)..).step_by(8))
        {
            mem::write64(at, word);
        }
        let [slot, _] = loop {
            match calls::call(CoreCall::DeviceAssign, [vm, block.pa, 0, 0]) {
                Err(Status::Again) => {}
                other => break other?,
            }
        };
        println!(
            "DIRECT device {:#x} is the guest's device {slot}",
            self.function
        );
        Ok(())
    }
}

/// What was last seen of the function.
#[derive(Debug)]
pub(crate) struct Watch {
    order: Order,
    index: u64,
    seen: [u64; 9],
    resets: u64,
}

impl Watch {
    pub(crate) fn new(order: Order, resets: u64) -> Self {
        let index =
            (0..32).find(|n| matches!(info(*n), Ok((function, _)) if function == order.function));
        Self {
            order,
            index: index.unwrap_or(0),
            seen: [0; 9],
            resets,
        }
    }

    /// Says what has changed, and resets the function if that is still to be done.
    pub(crate) fn look(&mut self) {
        let Ok((_, seen)) = info(self.index) else {
            return;
        };
        if seen != self.seen && self.resets == 0 {
            let [
                generation,
                mapped,
                small,
                medium,
                large,
                parked,
                refused,
                emulated,
                zaps,
            ] = seen;
            println!(
                "DIRECT device generation {generation} mapped {mapped:#x} leaves {small} {medium} {large} \
                 parked {parked} refused {refused} emulated {emulated} zaps {zaps}"
            );
        }
        self.seen = seen;
        if self.resets > 0 {
            match calls::call(CoreCall::DeviceReset, [self.order.function, 0, 0, 0]) {
                Ok(_) => self.resets -= 1,
                Err(Status::Again) => {}
                Err(status) => {
                    println!("DIRECT DeviceReset: {status:?}");
                    self.resets = 0;
                }
            }
            if self.resets == 0 {
                println!("DIRECT device resets done");
            }
        }
    }
}

/// Returns the ID and counters of function number `n`.
fn info(n: u64) -> Result<(u64, [u64; 9]), Status> {
    let block = Block::grant(0)?;
    calls::call(CoreCall::DeviceInfo, [n, block.pa, 0, 0])?;
    let word = |offset: usize| mem::read64(calls::window(block.pa) + offset as u64);
    let leaves = offset_of!(DeviceInfo, mapped);
    Ok((
        word(0) & 0xffff,
        [
            word(offset_of!(DeviceInfo, generation)),
            word(offset_of!(DeviceInfo, mapped_bytes)),
            word(leaves),
            word(leaves + 8),
            word(leaves + 16),
            word(offset_of!(DeviceInfo, parked)),
            word(offset_of!(DeviceInfo, refused)),
            word(offset_of!(DeviceInfo, emulated)),
            word(offset_of!(DeviceInfo, zaps)),
        ],
    ))
}
