//! The control port's TCP sockets: a fixed number, and always one that listens.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;

use crate::clock;

/// Connections at once, those being closed included.
const MOST: usize = 32;
/// Sockets that wait for a client.
const LISTENING: usize = 4;
/// Receive window: an upload is one connection with nothing to wait for.
const RECEIVE_BYTES: usize = 256 << 10;
const SEND_BYTES: usize = 64 << 10;
/// A peer that has said nothing for so long, when something was due, is gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// When sockets are short, a client that has had no answer yet may be silent for so long.
const PATIENCE_NS: u64 = 500_000_000;
/// How often a silent connection is asked whether its peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One socket, and what belongs to its connection.
#[derive(Debug)]
pub(crate) struct Slot<C> {
    /// The socket, of type [`Socket`].
    pub(crate) handle: SocketHandle,
    /// Made when a client connects.
    pub(crate) connection: Option<C>,
    /// When bytes last moved, in nanoseconds of [`clock::uptime_ns`].
    pub(crate) moved_ns: u64,
    /// Whether the connection was ever sent anything.
    pub(crate) answered: bool,
}

/// The sockets of one port.
#[derive(Debug)]
pub(crate) struct Listener<C> {
    port: u16,
    pub(crate) slots: Vec<Slot<C>>,
    /// Whether no socket listens.
    is_short: bool,
}

impl<C> Listener<C> {
    /// Prepares to listen on `port`; [`Self::refill`] begins.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port,
            slots: Vec::with_capacity(MOST),
            is_short: false,
        }
    }

    /// Makes sure that there are sockets to accept the next clients, and returns how many.
    pub(crate) fn refill(&mut self, sockets: &mut SocketSet<'static>) -> usize {
        let now_ns = clock::uptime_ns();
        let mut listening: usize = 0;
        for slot in &mut self.slots {
            let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
            if slot.connection.is_none() && matches!(socket.state(), State::Closed) {
                listen(socket, self.port);
            }
            if socket.is_listening() {
                slot.moved_ns = now_ns;
                listening = listening.saturating_add(1);
            }
        }
        while listening < LISTENING && self.slots.len() < MOST {
            let receive = SocketBuffer::new(vec![0; RECEIVE_BYTES]);
            let send = SocketBuffer::new(vec![0; SEND_BYTES]);
            let mut socket = Socket::new(receive, send);
            listen(&mut socket, self.port);
            self.slots.push(Slot {
                handle: sockets.add(socket),
                connection: None,
                moved_ns: now_ns,
                answered: false,
            });
            listening = listening.saturating_add(1);
        }
        while listening < LISTENING && self.make_room(sockets, now_ns) {
            listening = listening.saturating_add(1);
        }
        self.is_short = listening == 0;
        listening
    }

    /// Returns when [`Self::refill`] is to be called even if nothing happens.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.is_short
            .then(|| clock::uptime_ns().saturating_add(PATIENCE_NS))
    }

    /// Takes a socket from whoever needs it least, so that the next client gets in: from a
    /// connection that is over but for stray packets, or from the client that has been
    /// silent for longest without ever having been answered. Returns whether there was one.
    fn make_room(&mut self, sockets: &mut SocketSet<'static>, now_ns: u64) -> bool {
        let may_go = |slot: &Slot<C>| {
            let state = sockets.get::<Socket<'_>>(slot.handle).state();
            let is_silent = now_ns.saturating_sub(slot.moved_ns) >= PATIENCE_NS;
            match (&slot.connection, state) {
                (_, State::Listen | State::Closed) => false,
                (None, State::TimeWait) => true,
                (None, _) => is_silent,
                (Some(_), _) => is_silent && !slot.answered,
            }
        };
        let candidates = self.slots.iter_mut().filter(|slot| may_go(slot));
        let Some(slot) = candidates.min_by_key(|slot| slot.moved_ns) else {
            return false;
        };
        slot.connection = None;
        slot.moved_ns = now_ns;
        let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
        socket.abort();
        listen(socket, self.port);
        true
    }
}

fn listen(socket: &mut Socket<'static>, port: u16) {
    socket.set_timeout(Some(PEER_TIMEOUT));
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket.set_nagle_enabled(false);
    let listened = socket.listen(port);
    debug_assert!(
        listened.is_ok(),
        "a closed socket can listen on a port that is not 0"
    );
}
