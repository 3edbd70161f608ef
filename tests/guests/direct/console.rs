//! The console of a VM: the ring that core fills, printed in whole lines.

use crate::calls;
use alloc::string::String;
use core::mem::offset_of;
use guest_abi::core_call::CoreCall;
use guest_abi::vm_shared::{CONSOLE_OUT_BYTES, VmShared};
use payload::{mem, println};

/// The reader's end of the ring of one VM.
#[derive(Debug)]
pub(crate) struct Console {
    n: usize,
    shared: u64,
    tail: u64,
    line: String,
}

impl Console {
    pub(crate) fn new(n: usize, shared_pa: u64) -> Self {
        Self {
            n,
            shared: calls::window(shared_pa),
            tail: 0,
            line: String::with_capacity(1024),
        }
    }

    /// Prints what has come; returns whether anything has.
    pub(crate) fn drain(&mut self, vm: u64) -> bool {
        let head = mem::read32(self.shared + offset_of!(VmShared, out_head) as u64);
        if head == self.tail {
            return false;
        }
        while self.tail != head {
            let at = self.tail % CONSOLE_OUT_BYTES as u64;
            let byte = mem::read8(self.shared + offset_of!(VmShared, out_ring) as u64 + at);
            self.tail = (self.tail + 1) & 0xffff_ffff;
            match byte as u8 {
                b'\n' => {
                    println!("vm{}| {}", self.n, self.line);
                    self.line.clear();
                }
                b'\r' => {}
                byte if self.line.len() < 1024 => self.line.push(byte.into()),
                _ => {}
            }
        }
        mem::write32(self.shared + offset_of!(VmShared, out_tail) as u64, head);
        // A VM that is over has nobody to tell.
        let _ = calls::call(CoreCall::VmConsole, [vm, 0, 0, 0]);
        true
    }

    /// Returns the VM's state, as core has it in the shared page.
    pub(crate) fn state(&self) -> u32 {
        mem::read32(self.shared + offset_of!(VmShared, state) as u64) as u32
    }
}
