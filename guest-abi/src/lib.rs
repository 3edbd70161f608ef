//! What guests and root see of Skete.
//!
//! Numbers and layouts here are promises: [`map`] is the machine a guest believes it
//! is, [`pv`] what it is told of its vCPUs' turns, [`page_state`] and [`storage_key`] what it
//! may ask about its memory, [`core_call`] is what root may ask of core ([`vcpu_info`]:
//! of a vCPU; [`notes`]: what it has core keep), [`root_boot`] and [`vm_shared`] are the memory that core and root share. Nothing here allocates or is
//! `unsafe`.
#![no_std]

pub mod core_call;
pub mod device;
pub mod dma;
pub mod guest_memory;
pub mod lock;
pub mod map;
pub mod memory_call;
pub mod notes;
pub mod page_state;
pub mod pv;
pub mod root_boot;
pub mod storage_key;
pub mod vcpu_info;
pub mod vm_shared;
