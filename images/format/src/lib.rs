//! The appliance image: its header and its table of parts.
#![no_std]
