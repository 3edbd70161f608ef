//! `skete console`: a VM's console in this terminal, or through pipes.

use std::io::{self, IsTerminal as _, Read as _};
use std::thread;
use std::time::Duration;

use skete_client::{Client, Console, ConsoleWriter, Error, Until};

use crate::args::ConsoleArgs;
use crate::output::{Output, print_bytes};
use crate::terminal::Raw;

/// Ctrl-], which detaches, as in virsh and telnet.
const DETACH: u8 = 0x1d;
/// With input from a pipe: how long to wait for more output after the input has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs `skete console`.
pub(crate) fn run(client: &Client, output: &Output, args: &ConsoleArgs) -> Result<(), Error> {
    let until = if args.keep {
        Until::Deleted
    } else {
        Until::Stopped
    };
    if args.log && args.follow {
        let mut log = client.console_follow(&args.name, until)?;
        let mut piece = [0u8; 4096];
        loop {
            match log.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(bytes) => print_bytes(piece.get(..bytes).unwrap_or_default())?,
                Err(why) => return Err(broken(client, &why)),
            }
        }
    }
    if args.log {
        return print_bytes(&client.console_log(&args.name)?);
    }
    let console = client.console(&args.name, until)?;
    if io::stdin().is_terminal() {
        attach(client, output, console, &args.name)
    } else {
        pipe(client, console)
    }
}

fn attach(client: &Client, output: &Output, console: Console, name: &str) -> Result<(), Error> {
    if !output.quiet {
        eprintln!("attached to {name}; Ctrl-] detaches");
    }
    let broken = |why: &io::Error| broken(client, why);
    let writer = console.writer().map_err(|why| broken(&why))?;
    let raw = Raw::enter().map_err(|why| broken(&why))?;
    // The thread may sit in a read of the terminal for ever; the end of the process ends it.
    thread::spawn(move || type_until_detached(writer));
    let result = copy_output(client, console);
    drop(raw);
    if !output.quiet {
        eprintln!("\r\ndetached from {name}");
    }
    result
}

fn type_until_detached(mut writer: ConsoleWriter) {
    let mut keys = [0u8; 1024];
    let mut input = io::stdin().lock();
    while let Ok(bytes @ 1..) = input.read(&mut keys) {
        let typed = keys.get(..bytes).unwrap_or_default();
        let end = typed.iter().position(|key| *key == DETACH);
        let sent = typed.get(..end.unwrap_or(bytes)).unwrap_or_default();
        if writer.write_all(sent).is_err() || end.is_some() {
            break;
        }
    }
    // Reads of the console end with this; if it is closed already, so they have.
    let _ = writer.detach();
}

/// Copies standard input to the console and its output to standard output, until both are
/// at their end or the guest has nothing more to say.
fn pipe(client: &Client, mut console: Console) -> Result<(), Error> {
    let mut writer = console.writer().map_err(|why| broken(client, &why))?;
    let (send, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut piece = [0u8; 4096];
        let mut input = io::stdin().lock();
        while let Ok(bytes @ 1..) = input.read(&mut piece) {
            if writer
                .write_all(piece.get(..bytes).unwrap_or_default())
                .is_err()
            {
                break;
            }
        }
        // The receiver is gone only if nobody waits.
        let _ = send.send(());
    });
    console.set_read_timeout(Some(DRAIN));
    let mut over = false;
    let mut piece = [0u8; 4096];
    loop {
        match console.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(bytes) => print_bytes(piece.get(..bytes).unwrap_or_default())?,
            Err(why) if why.kind() == io::ErrorKind::TimedOut => {
                over |= ended.try_recv().is_ok();
                if over {
                    return Ok(());
                }
            }
            Err(why) => return Err(broken(client, &why)),
        }
    }
}

fn copy_output(client: &Client, mut console: Console) -> Result<(), Error> {
    let mut piece = [0u8; 4096];
    loop {
        match console.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(bytes) => print_bytes(piece.get(..bytes).unwrap_or_default())?,
            Err(why) if why.kind() == io::ErrorKind::NotConnected => return Ok(()),
            Err(why) => return Err(broken(client, &why)),
        }
    }
}

fn broken(client: &Client, why: &io::Error) -> Error {
    Error::Unreachable {
        url: client.url().into(),
        why: why.to_string(),
    }
}
