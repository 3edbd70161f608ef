//! A running QEMU.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::serial::last_lines;
use crate::{Board, Qmp, Serial};

/// A running QEMU, with its serial line on a pipe and a log.
///
/// Dropping it ends the process. When the thread panics, as a failing test does, the logs and
/// the registers of every CPU stay behind in the log directory; otherwise it is removed.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdin: ChildStdin,
    serial: Serial,
    qmp: Qmp,
    logs: PathBuf,
    keep_logs: bool,
}

/// Returns a TCP port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Machine {
    /// Starts `board`; logs go to the directory `logs`, which is emptied first.
    pub fn start(board: &Board, logs: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(logs);
        fs::create_dir_all(logs)?;
        // Not in `logs`: the name of a Unix socket has at most 107 bytes.
        let socket = std::env::temp_dir().join(format!(
            "skete-{}-{:?}.qmp",
            std::process::id(),
            std::thread::current().id()
        ));
        let _ = fs::remove_file(&socket);
        let mut command = board.command();
        command
            .args(["-chardev", "stdio,id=serial,signal=off", "-serial"])
            .args(["chardev:serial", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(logs.join("qemu.log"))?);
        fs::write(logs.join("command.txt"), format!("{command:?}\n"))?;
        let mut child = command.spawn().context("setpriv is not installed")?;
        let stdin = child.stdin.take().context("asked for above")?;
        let stdout = child.stdout.take().context("asked for above")?;
        let serial = Serial::collect(stdout, File::create(logs.join("serial.log"))?);
        let qmp = Qmp::connect(&socket);
        let _ = fs::remove_file(&socket);
        match qmp {
            Ok(qmp) => Ok(Self {
                child,
                stdin,
                serial,
                qmp,
                logs: logs.to_owned(),
                keep_logs: false,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(logs.join("qemu.log")).unwrap_or_default();
                Err(error.context(format!("QEMU did not start: {}", said.trim())))
            }
        }
    }

    /// The serial line.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// QEMU's control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Types `text` at the serial line.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.stdin.write_all(text.as_bytes())?;
        Ok(self.stdin.flush()?)
    }

    /// Waits until the machine ends by itself, as it does when its software switches it off.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the machine did not switch itself off; its last lines were\n{}",
                    last_lines(self.serial.text().as_bytes(), 20)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the machine switches itself off; returns everything it printed.
    ///
    /// Fails when it does not within `patience`, and when QEMU ends with an error.
    pub fn output(&mut self, patience: Duration) -> Result<String> {
        let status = self.wait_for_end(patience)?;
        let text = self.serial.whole(Duration::from_secs(5))?;
        if !status.success() {
            bail!("QEMU ended with {status}; it printed\n{text}");
        }
        Ok(text)
    }

    /// Leaves the logs where they are when the machine is dropped.
    pub fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    /// Returns whether the machine still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the machine as if its plug were pulled.
    pub fn end(&mut self) {
        let _ = self.qmp.run("quit", json!({}));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if self.runs()
                && let Ok(registers) = self.qmp.monitor("info registers -a")
            {
                let _ = fs::write(self.logs.join("registers.txt"), registers);
            }
            eprintln!(
                "the machine's logs are in {}; its last lines were\n{}",
                self.logs.display(),
                last_lines(self.serial.text().as_bytes(), 40)
            );
        }
        self.end();
        if !std::thread::panicking() && !self.keep_logs {
            let _ = fs::remove_dir_all(&self.logs);
        }
    }
}
