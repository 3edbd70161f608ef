//! Skete in QEMU.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::serial::last_lines;
use crate::{Board, Control, Machine, free_port, paths};

/// The control port inside the machine.
pub const PORT_INSIDE: u16 = 8080;

/// The appliance, running in QEMU, its control port answering.
#[derive(Debug)]
pub struct Appliance {
    machine: Machine,
    port: u16,
    token: String,
    time_leaps: bool,
}

impl Appliance {
    /// Starts the built appliance on `board` and waits for its control port.
    ///
    /// Sets the board's control port and puts the token before its boot arguments.
    pub fn start(mut board: Board, token: &str, logs: &Path, patience: Duration) -> Result<Self> {
        ensure!(
            board.kernel.exists(),
            "{} is not there: run `cargo xtask build`",
            board.kernel.display()
        );
        let port = free_port()?;
        board.control_port = Some(port);
        board.append = format!("token={token} {}", board.append).trim().to_owned();
        let machine = Machine::start(&board, logs)?;
        let mut appliance = Self {
            machine,
            port,
            token: token.to_owned(),
            time_leaps: board.counted,
        };
        appliance.wait_until_it_answers(patience)?;
        Ok(appliance)
    }

    /// A board for the appliance of this repository.
    pub fn board(cpu: crate::Cpu) -> Board {
        Board::new(cpu, paths::image())
    }

    fn wait_until_it_answers(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            // QEMU's user network accepts at once, whether or not anybody listens inside.
            let why = match self.facts() {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let runs = self.machine.runs();
            if !runs || Instant::now() > deadline {
                let how = if runs {
                    "the control port does not answer"
                } else {
                    "the appliance ended"
                };
                bail!(
                    "{how} ({why}); its last lines were\n{}",
                    last_lines(self.machine.serial().text().as_bytes(), 40)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks for `GET /v1`, to be answered within two seconds.
    pub fn facts(&self) -> Result<Value> {
        let patience = Duration::from_secs(2);
        let answer = self.control().raw_within("GET /v1", &[], &[], patience)?;
        ensure!(answer.status == 200, "it answered {}", answer.status);
        Ok(answer.json())
    }

    /// A client of the control port.
    pub fn control(&self) -> Control {
        Control::new(self.port, &self.token).whose_time_leaps(self.time_leaps)
    }

    /// Asks the appliance to switch the machine off, and waits until it has.
    pub fn shut_down(mut self) -> Result<()> {
        let body = json!({ "action": "shutdown" });
        self.control().json("POST /v1/system/actions", &body)?;
        self.machine.wait_for_end(Duration::from_secs(60))?;
        Ok(())
    }

    /// QEMU's own control port.
    pub fn qmp(&mut self) -> &mut crate::Qmp {
        self.machine.qmp()
    }

    /// What core and root have said.
    pub fn serial(&self) -> &crate::Serial {
        self.machine.serial()
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The control port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The control port's URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }
}
