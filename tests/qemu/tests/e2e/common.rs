//! What the tests share.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qemu::{Appliance, Board, Control, Cpu, paths};
use serde_json::{Value, json};

/// The token that every appliance under test is given.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// What emulation may need for anything that is not a wait for nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// One machine at a time: each wants all of the CPUs that CI has.
static ALONE: Mutex<()> = Mutex::new(());

/// An appliance that belongs to one test.
pub(crate) struct Running {
    pub(crate) appliance: Appliance,
    pub(crate) control: Control,
    _alone: MutexGuard<'static, ()>,
}

/// Waits for the test's turn.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the logs of the test that asks are kept, should it fail.
pub(crate) fn logs() -> std::path::PathBuf {
    paths::logs(std::thread::current().name().unwrap_or("unnamed"))
}

/// Starts an appliance with two CPUs and 2 GiB.
pub(crate) fn appliance(cpu: Cpu) -> Running {
    appliance_on(Appliance::board(cpu))
}

/// Starts an appliance on a board.
pub(crate) fn appliance_on(board: Board) -> Running {
    let alone = alone();
    let appliance = Appliance::start(board, TOKEN, &logs(), PATIENCE).expect("Skete starts");
    Running {
        control: appliance.control(),
        appliance,
        _alone: alone,
    }
}

impl Running {
    /// Uploads the Linux guest as `linux` and `busybox`.
    pub(crate) fn push_linux(&self) {
        let kernel = fs::read(paths::guest_kernel()).expect("cargo xtask guest");
        let initrd = fs::read(paths::guest_initrd()).expect("cargo xtask guest");
        self.control
            .push("linux", "kernel", &kernel)
            .expect("takes the kernel");
        self.control
            .push("busybox", "initrd", &initrd)
            .expect("takes the initrd");
    }

    /// Uploads a bare-metal guest under its own name, with `-` for `_`.
    pub(crate) fn push_payload(&self, name: &str) {
        let file = paths::payload(&name.replace('-', "_"));
        let image = fs::read(file).expect("cargo xtask test builds it");
        self.control
            .push(name, "flat", &image)
            .expect("takes a flat image");
    }

    /// Switches the appliance off, as its user would.
    pub(crate) fn shut_down(self) {
        self.appliance.shut_down().expect("Skete switches off");
    }
}

/// What a Linux VM boots.
pub(crate) fn linux() -> Value {
    json!({ "kernel": "linux", "initrd": "busybox", "cmdline": "console=ttyAMA0" })
}
