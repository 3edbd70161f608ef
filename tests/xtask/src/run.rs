//! `cargo xtask run`: the appliance on this terminal, its control port on 127.0.0.1.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use anyhow::{Result, bail};
use qemu::{Board, free_port};

use crate::symbols::Symbols;
use crate::{MachineArgs, build, setup};

/// Builds the appliance and runs it until it ends or Ctrl-C is typed.
pub(crate) fn run(machine: &MachineArgs) -> Result<()> {
    setup::emulator()?;
    build::appliance()?;
    let (board, token) = reachable(machine)?;
    announce(&board, &token);
    let mut machine = on_terminal(&board).stdout(Stdio::piped()).spawn()?;
    if let Some(serial) = machine.stdout.take() {
        Symbols::open().filter(serial, std::io::stdout())?;
    }
    let status = machine.wait()?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// A board with a control port and a token.
pub(crate) fn reachable(machine: &MachineArgs) -> Result<(Board, String)> {
    let mut board = machine.board();
    let token = token()?;
    board.control_port = Some(free_port()?);
    board.append = format!("token={token}");
    board.reset_ends = false;
    Ok((board, token))
}

/// QEMU with its serial line on this terminal.
pub(crate) fn on_terminal(board: &Board) -> std::process::Command {
    let mut command = board.command();
    command.args([
        "-chardev",
        "stdio,id=serial,signal=on",
        "-serial",
        "chardev:serial",
    ]);
    command
}

/// A token that nobody guesses.
pub(crate) fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn announce(board: &Board, token: &str) {
    let port = board.control_port.unwrap_or(0);
    eprintln!(
        "control port  http://127.0.0.1:{port}   (plain HTTP: for this machine only)\n\
         token         {token}\n\
         \n\
         \x20   export SKETE_URL=http://127.0.0.1:{port} SKETE_TOKEN={token}\n\
         \x20   cargo run -q -p skete-cli -- host\n\
         \x20   curl -H \"Authorization: Bearer $SKETE_TOKEN\" $SKETE_URL/v1\n\
         \n\
         Ctrl-C ends the appliance.\n"
    );
}
