//! Stage-2 tables of a guest, shared with nobody.
#![no_std]
