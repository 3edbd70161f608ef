//! The control port's TCP sockets: a fixed number, and always one that listens.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;

/// Connections at once, those being closed included.
const MOST: usize = 32;
/// Sockets that wait for a client.
const LISTENING: usize = 4;
/// Receive window: an upload is one connection with nothing to wait for.
const RECEIVE_BYTES: usize = 256 << 10;
const SEND_BYTES: usize = 64 << 10;
/// A peer that has said nothing for so long, when something was due, is gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent connection is asked whether its peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One socket, and what belongs to its connection.
#[derive(Debug)]
pub(crate) struct Slot<C> {
    /// The socket, of type [`Socket`].
    pub(crate) handle: SocketHandle,
    /// Made when a client connects.
    pub(crate) connection: Option<C>,
}

/// The sockets of one port.
#[derive(Debug)]
pub(crate) struct Listener<C> {
    port: u16,
    pub(crate) slots: Vec<Slot<C>>,
}

impl<C> Listener<C> {
    /// Listens on `port`.
    pub(crate) fn new(port: u16, sockets: &mut SocketSet<'static>) -> Self {
        let mut listener = Self {
            port,
            slots: Vec::with_capacity(MOST),
        };
        listener.refill(sockets);
        listener
    }

    /// Makes sure that there are sockets to accept the next clients.
    pub(crate) fn refill(&mut self, sockets: &mut SocketSet<'static>) {
        let mut listening: usize = 0;
        for slot in &mut self.slots {
            let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
            if slot.connection.is_none() && matches!(socket.state(), State::Closed) {
                listen(socket, self.port);
            }
            listening = listening.saturating_add(usize::from(socket.is_listening()));
        }
        while listening < LISTENING && self.slots.len() < MOST {
            let receive = SocketBuffer::new(vec![0; RECEIVE_BYTES]);
            let send = SocketBuffer::new(vec![0; SEND_BYTES]);
            let mut socket = Socket::new(receive, send);
            listen(&mut socket, self.port);
            self.slots.push(Slot {
                handle: sockets.add(socket),
                connection: None,
            });
            listening = listening.saturating_add(1);
        }
        if listening == 0 {
            self.hurry(sockets);
        }
    }

    /// Gives up a connection that only waits for stray packets, so that a client gets in.
    fn hurry(&mut self, sockets: &mut SocketSet<'static>) {
        let port = self.port;
        for slot in &mut self.slots {
            let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
            if slot.connection.is_none() && matches!(socket.state(), State::TimeWait) {
                socket.abort();
                listen(socket, port);
                return;
            }
        }
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
