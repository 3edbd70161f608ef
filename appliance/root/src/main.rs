//! Root: the Hermit unikernel that carries Skete's control plane.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cell;

/// What Hermit calls once it is up. Root has this one task.
#[expect(unsafe_code, reason = "Hermit calls it by name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8, _env: *const *const u8) {
    hermit::println!("root: hello, {} devices", boot::root_boot().device_count);
}
