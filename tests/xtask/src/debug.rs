//! `cargo xtask debug`: the appliance, stopped at its first instruction, waiting for gdb.

use anyhow::Result;
use qemu::free_port;

use crate::{MachineArgs, build, run, setup};

/// Starts the appliance stopped, and says how to attach.
pub(crate) fn debug(machine: &MachineArgs) -> Result<()> {
    setup::emulator()?;
    setup::debugger()?;
    build::appliance()?;
    let (mut board, token) = run::reachable(machine)?;
    let gdb = free_port()?;
    board.more.extend([
        "-S".to_owned(),
        "-gdb".to_owned(),
        format!("tcp:127.0.0.1:{gdb}"),
    ]);
    run::announce(&board, &token);
    eprintln!(
        "In another terminal:\n\
         \n\
         \x20   gdb-multiarch -ex 'target remote 127.0.0.1:{gdb}' {}\n",
        build::core_elf().display()
    );
    let root = build::root_elf();
    if root.exists() {
        eprintln!("and there, for root:  add-symbol-file {}\n", root.display());
    }
    run::on_terminal(&board).status()?;
    Ok(())
}
