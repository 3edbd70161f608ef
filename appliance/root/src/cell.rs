//! Statics that are written before interrupts and tasks exist.

#![expect(unsafe_code, reason = "start-up statics")]

use core::cell::UnsafeCell;

/// A static that one writer fills during start-up; whoever dereferences says why it may.
#[repr(transparent)]
pub(crate) struct BootCell<T>(UnsafeCell<T>);

// SAFETY: root has one vCPU. Every dereference of `get` states what keeps it exclusive.
unsafe impl<T> Sync for BootCell<T> {}

impl<T> BootCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Returns where the value lies.
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}
