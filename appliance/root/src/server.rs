//! The control port: sockets on one side, the control server on the other.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use control::{Config, Connection, Server, auth};
use guest_abi::root_boot::Doorbell;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::RngCore;
use root_logic::BootArgs;
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{Socket, State};

use crate::backend::Machine;
use crate::net::{Card, Listener, Net, Slot};
use crate::{clock, wait};

/// Times a connection is served in a row before others are.
const TURNS: usize = 8;

/// Everything that runs.
pub(crate) struct Port {
    net: Net,
    listener: Listener<Connection>,
    server: Server,
    machine: Machine,
    doorbell: Option<&'static Doorbell>,
    /// When [`Server::poll`] is due.
    poll_at_ns: u64,
}

impl Port {
    /// Opens the control port on `card`.
    pub(crate) fn open(
        card: Card,
        args: &BootArgs<'_>,
        mut machine: Machine,
        mut rng: ChaCha20Rng,
        doorbell: Option<&'static Doorbell>,
    ) -> Self {
        let token_sha256 = match args.token {
            Some(token) => auth::token_digest(token),
            // The operator has been shown one already, if this is not the first root.
            None => control::kept_token(&mut machine)
                .unwrap_or_else(|| auth::token_digest(&make_token(&mut rng))),
        };
        let config = |seed| Config {
            token_sha256,
            seed,
            drills: args.drills,
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut net = Net::new(card, args, rng.next_u64());
        let mut listener = Listener::new(args.port);
        let listening = listener.refill(&mut net.sockets);
        net.admit(listening);
        Self {
            net,
            listener,
            server: Server::revive(config(seed), &mut machine),
            machine,
            doorbell,
            poll_at_ns: 0,
        }
    }

    /// Serves for as long as the machine runs.
    pub(crate) fn serve(mut self) -> ! {
        loop {
            if let Some(doorbell) = self.doorbell {
                wait::beat(doorbell);
            }
            let events = wait::take();
            let mut busy = self.net.poll();
            if events & wait::DOORBELL != 0
                && let Some(doorbell) = self.doorbell
            {
                // Which VM it was does not matter: all are looked at below.
                doorbell.vms.swap(0, Ordering::Acquire);
            }
            self.server.poll(&mut self.machine);
            for slot in &mut self.listener.slots {
                busy |= serve(
                    slot,
                    &mut self.net.sockets,
                    &mut self.server,
                    &mut self.machine,
                );
            }
            self.poll_at_ns = clock::uptime_ns().saturating_add(self.server.poll_after_ns());
            // Before the sockets listen again: a reset still has to get out.
            self.net.send();
            let listening = self.listener.refill(&mut self.net.sockets);
            busy |= self.net.admit(listening);
            if !busy && !self.machine.is_loading() {
                let deadline_ns = self.deadline_ns();
                wait::sleep_until(deadline_ns);
            }
        }
    }

    /// Returns when there is something to do even if nothing happens, in nanoseconds of
    /// [`clock::uptime_ns`].
    fn deadline_ns(&mut self) -> u64 {
        let connections = self
            .listener
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref());
        connections
            .map(Connection::deadline_ns)
            .chain(self.net.deadline_ns())
            .chain(self.listener.deadline_ns())
            .fold(self.poll_at_ns, u64::min)
    }
}

/// Moves one connection on. Returns whether it may have more to do at once.
fn serve(
    slot: &mut Slot<Connection>,
    sockets: &mut SocketSet<'static>,
    server: &mut Server,
    machine: &mut Machine,
) -> bool {
    let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
    if slot.connection.is_none() {
        if !matches!(socket.state(), State::Established | State::CloseWait) {
            return false;
        }
        slot.connection = Some(Connection::new(server, machine));
        slot.moved_ns = clock::uptime_ns();
        slot.answered = false;
    }
    let Some(connection) = &mut slot.connection else {
        return false;
    };
    if matches!(socket.state(), State::Closed) {
        // Reset by the peer, or timed out: nobody is there to talk to.
        slot.connection = None;
        return false;
    }
    connection.poll(server, machine);
    let mut busy = true;
    for _ in 0..TURNS {
        let fed = feed(connection, socket, server, machine);
        let sent = flush(connection, socket, machine);
        slot.answered |= sent;
        if !fed && !sent {
            busy = false;
            break;
        }
        slot.moved_ns = clock::uptime_ns();
    }
    let receiving = matches!(
        socket.state(),
        State::Established | State::FinWait1 | State::FinWait2
    );
    if !receiving && !socket.can_recv() {
        connection.eof(machine);
    }
    if connection.wants_fin() && socket.may_send() {
        socket.close();
    }
    if connection.is_closed() {
        slot.connection = None;
        // A peer that has not closed its side by now need not: the socket is wanted.
        let ends_by_itself = matches!(
            socket.state(),
            State::TimeWait | State::LastAck | State::Closing | State::Closed
        );
        if !ends_by_itself {
            socket.abort();
        }
        return false;
    }
    busy
}

/// Hands over what has arrived; returns whether any of it was taken.
fn feed(
    connection: &mut Connection,
    socket: &mut Socket<'_>,
    server: &mut Server,
    machine: &mut Machine,
) -> bool {
    if !socket.can_recv() {
        return false;
    }
    socket
        .recv(|data| {
            let taken = connection.feed(server, machine, data);
            (taken, taken > 0)
        })
        .unwrap_or(false)
}

/// Passes on what is to be sent; returns whether any of it was.
fn flush(connection: &mut Connection, socket: &mut Socket<'_>, machine: &Machine) -> bool {
    let output = connection.output();
    if output.is_empty() || !socket.can_send() {
        return false;
    }
    let sent = socket.send_slice(output).unwrap_or(0);
    connection.sent(machine, sent);
    sent > 0
}

/// Makes the operator's token and shows it, once.
fn make_token(rng: &mut ChaCha20Rng) -> String {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    let mut token = String::with_capacity(64);
    for byte in bytes {
        let written = write!(token, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    hermit::println!("skete: token {token}");
    token
}
