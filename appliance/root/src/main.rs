//! Root: the Hermit unikernel that carries Skete's control plane.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod bootargs;
mod calls;
mod cell;
mod clock;
mod devices;
mod dma;
mod entropy;
mod frames;
mod net;
mod physmap;
mod server;
mod wait;

use virtio_drivers::transport::DeviceType;

/// What Hermit calls once it is up. Root has this one task, and it does not end.
#[expect(unsafe_code, reason = "Hermit calls it by name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8, _env: *const *const u8) {
    clock::init();
    wait::attach_doorbell();
    server::run();
}
