//! The guest's console: its lines are looked at, and a command can be typed.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

use guest_abi::core_call::CoreCall;
use guest_abi::vm_shared::{CONSOLE_IN_BYTES, CONSOLE_OUT_BYTES, VmShared};
use payload::{mem, println, root};

/// Root's ends of the two rings of one VM.
#[derive(Debug)]
pub(crate) struct Console {
    vm: u64,
    shared: u64,
    line: String,
    typed: Vec<u8>,
    /// Checksums that were the same, and others.
    pub(crate) same: u64,
    pub(crate) wrong: u64,
    /// All work was done.
    pub(crate) done: bool,
}

impl Console {
    pub(crate) fn new(vm: u64, shared: u64) -> Self {
        Self {
            vm,
            shared,
            line: String::with_capacity(1024),
            typed: Vec::new(),
            same: 0,
            wrong: 0,
            done: false,
        }
    }

    /// Returns what was printed since the last end of a line.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Returns the VM's state.
    pub(crate) fn state(&self) -> u32 {
        self.word(offset_of!(VmShared, state)) as u32
    }

    /// Types `text`, as fast as the guest reads.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.typed = text.bytes().rev().collect();
    }

    fn word(&self, offset: usize) -> u64 {
        mem::read32(self.shared + offset as u64)
    }

    fn set_word(&self, offset: usize, value: u64) {
        mem::write32(self.shared + offset as u64, value);
    }

    /// Moves bytes both ways.
    pub(crate) fn poll(&mut self) {
        let news = self.read() | self.write();
        if news {
            // A VM that is over has nobody to tell.
            let _ = root::try_call(CoreCall::VmConsole, &[self.vm]);
        }
    }

    fn read(&mut self) -> bool {
        let head = self.word(offset_of!(VmShared, out_head));
        let mut tail = self.word(offset_of!(VmShared, out_tail));
        let news = head != tail;
        while tail != head {
            let at = tail % CONSOLE_OUT_BYTES as u64;
            let byte = mem::read8(self.shared + offset_of!(VmShared, out_ring) as u64 + at);
            tail = (tail + 1) & 0xffff_ffff;
            match byte as u8 {
                b'\n' => self.end_of_line(),
                b'\r' => {}
                byte if self.line.len() < 1024 => self.line.push(byte.into()),
                _ => {}
            }
        }
        self.set_word(offset_of!(VmShared, out_tail), head);
        news
    }

    fn write(&mut self) -> bool {
        let tail = self.word(offset_of!(VmShared, in_tail));
        let mut head = self.word(offset_of!(VmShared, in_head));
        let before = head;
        while head.wrapping_sub(tail) & 0xffff_ffff < CONSOLE_IN_BYTES as u64 {
            let Some(byte) = self.typed.pop() else { break };
            let at = head % CONSOLE_IN_BYTES as u64;
            let ring = self.shared + offset_of!(VmShared, in_ring) as u64;
            mem::write8(ring + at, byte.into());
            head = (head + 1) & 0xffff_ffff;
        }
        self.set_word(offset_of!(VmShared, in_head), head);
        head != before
    }

    fn end_of_line(&mut self) {
        println!("vm| {}", self.line);
        // The shell echoes what was typed on a line that begins with its prompt.
        if self.line.starts_with("same ") {
            self.same += 1;
        } else if self.line.starts_with("DIFFERENT") {
            self.wrong += 1;
        } else if self.line.starts_with("work is done") {
            self.done = true;
        }
        self.line.clear();
    }
}
