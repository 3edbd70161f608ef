//! The virtual GICv3.
#![no_std]
