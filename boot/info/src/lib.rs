//! What the firmware's device tree says, checked once and copied.
#![no_std]
