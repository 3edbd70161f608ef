//! The loop that root has, over ordinary sockets. Its guests greet, echo what is typed, and
//! understand the lines `poweroff`, `reboot` and `crash`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use control::backend::RunState;
use control::fake::FakeBackend;
use control::{Config, Connection, Server, auth};

/// Bytes of a connection's receive buffer.
const BUFFER_BYTES: usize = 64 << 10;

struct Client {
    stream: TcpStream,
    connection: Connection,
    received: Vec<u8>,
    eof: bool,
    fin: bool,
}

/// Serves until a client asks the appliance to shut down.
pub(crate) fn serve(listener: &TcpListener, token: &str) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    let config = |life: u64| Config {
        token_sha256: auth::token_digest(token),
        seed: [life.to_le_bytes(), [0; 8], [0; 8], [0; 8]]
            .as_flattened()
            .try_into()
            .unwrap_or([0; 32]),
        drills: true,
    };
    let mut server = Server::new(config(1));
    let mut backend = FakeBackend {
        loading_polls: 20,
        devices: vec![
            FakeBackend::device("0000:00:03.0"),
            FakeBackend::device("0000:00:04.0"),
        ],
        ..FakeBackend::default()
    };
    let born_ns = backend.now_ns;
    let mut clients: Vec<Client> = Vec::new();
    while backend.powered.is_none() {
        let past = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let step = born_ns.saturating_add(past).saturating_sub(backend.now_ns);
        backend.advance(step);
        let mut busy = false;
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                clients.push(Client {
                    stream,
                    connection: Connection::new(&server, &backend),
                    received: Vec::new(),
                    eof: false,
                    fin: false,
                });
                busy = true;
            }
            Err(why) if why.kind() == ErrorKind::WouldBlock => {}
            Err(why) => return Err(why),
        }
        guests(&mut backend);
        server.poll(&mut backend);
        if backend.restarted.take().is_some() {
            backend.end_of_server();
            server = Server::revive(config(backend.generation), &mut backend);
            clients.clear();
        }
        clients.retain_mut(|client| match client.turn(&mut server, &mut backend) {
            Ok(moved) => {
                busy |= moved;
                !client.connection.is_closed()
            }
            Err(_) => false,
        });
        if !busy {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

impl Client {
    /// Moves bytes both ways; returns whether there were any.
    fn turn(&mut self, server: &mut Server, backend: &mut FakeBackend) -> io::Result<bool> {
        let mut busy = false;
        let mut piece = [0u8; 16 << 10];
        while !self.eof && self.received.len() < BUFFER_BYTES {
            match self.stream.read(&mut piece) {
                Ok(0) => self.eof = true,
                Ok(bytes) => self
                    .received
                    .extend_from_slice(piece.get(..bytes).unwrap_or_default()),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => return Err(why),
            }
        }
        let taken = self.connection.feed(server, backend, &self.received);
        busy |= taken != 0;
        self.received.drain(..taken);
        if self.eof && self.received.is_empty() {
            self.connection.eof(backend);
        }
        self.connection.poll(server, backend);
        loop {
            let output = self.connection.output();
            if output.is_empty() {
                break;
            }
            match self.stream.write(output) {
                Ok(bytes) => {
                    self.connection.sent(backend, bytes);
                    busy = true;
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => return Err(why),
            }
        }
        if self.connection.wants_fin() && !self.fin {
            self.fin = true;
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(busy)
    }
}

/// Lets every guest live a little.
fn guests(backend: &mut FakeBackend) {
    for run in backend.runs.values_mut() {
        if run.state != RunState::Running {
            continue;
        }
        if run.typed.is_empty() {
            let banner = format!(
                "Fake guest '{}', {} vCPUs.\r\n# ",
                run.plan.name, run.plan.cpus
            );
            run.out.extend(banner.as_bytes());
            // A zero byte that nobody typed marks that the banner is out.
            run.typed.push(0);
        }
        let Some(end) = run
            .typed
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'))
        else {
            continue;
        };
        let line: Vec<u8> = run.typed.drain(..=end).collect();
        run.typed.insert(0, 0);
        let text = String::from_utf8_lossy(&line);
        match text.trim_matches(|c: char| c.is_whitespace() || c == '\0') {
            "poweroff" => run.state = RunState::Off,
            "reboot" => run.state = RunState::Reset,
            "crash" => {
                run.state = RunState::Crashed {
                    esr: 0x9200_0006,
                    pc: 0x4008_0000,
                };
            }
            _ => run.out.extend(b"\n# "),
        }
    }
}
