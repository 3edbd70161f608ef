//! Endless responses: followed logs, events, consoles.

use alloc::format;
use alloc::vec::Vec;

use super::{Connection, HEARTBEAT_NS, State};
use crate::backend::Backend;
use crate::http::reply;
use crate::server::{Server, StreamKind};

/// A stream is not written further ahead of what was sent than this, in bytes.
const AHEAD_BYTES: usize = 16 << 10;

impl Connection {
    pub(super) fn poll_stream(&mut self, server: &mut Server, backend: &dyn Backend, now_ns: u64) {
        let idle = self.out.pending().is_empty();
        let over = match &mut self.state {
            State::Console { key, next, end, .. } => loop {
                let room = AHEAD_BYTES.saturating_sub(self.out.pending().len());
                match server.console_output(*key, *next, room) {
                    None => break true,
                    // Not for want of room: then there may be more.
                    Some(([], _)) => break room > 0 && server.console_is_over(*key, *end),
                    Some((piece, after)) => {
                        self.out.bytes.extend_from_slice(piece);
                        *next = after;
                    }
                }
            },
            State::Stream(stream) => {
                let mut over = false;
                while self.out.pending().len() < AHEAD_BYTES {
                    let mut data = Vec::new();
                    over = next_piece(server, &mut stream.kind, &mut data);
                    if data.is_empty() && now_ns >= stream.heartbeat_ns {
                        stream.heartbeat_ns = now_ns.saturating_add(HEARTBEAT_NS);
                        if matches!(stream.kind, StreamKind::Events { .. }) {
                            data.extend_from_slice(b": alive\n\n");
                        }
                    }
                    if stream.chunked {
                        reply::chunk(&mut self.out.bytes, &data);
                    } else {
                        self.out.bytes.extend_from_slice(&data);
                    }
                    if data.is_empty() || over {
                        break;
                    }
                }
                if over && stream.chunked {
                    reply::last_chunk(&mut self.out.bytes);
                }
                over
            }
            _ => false,
        };
        if over {
            self.finish(backend);
        } else if idle && !self.out.pending().is_empty() {
            // The time that the peer has for taking output counts from here.
            self.since_ns = now_ns;
        }
    }
}

/// Writes the next piece of a stream to `data`; nothing if there is none yet. Returns
/// whether the stream is over.
fn next_piece(server: &Server, kind: &mut StreamKind, data: &mut Vec<u8>) -> bool {
    match kind {
        StreamKind::Log { key, next, end } => match server.console_output(*key, *next, AHEAD_BYTES)
        {
            None => true,
            Some(([], _)) => server.console_is_over(*key, *end),
            Some((piece, after)) => {
                data.extend_from_slice(piece);
                *next = after;
                false
            }
        },
        StreamKind::Events { after, until } => {
            if let Some(event) = server.events.after(*after)
                && until.is_none_or(|until| event.seq <= until)
            {
                let lost = event.seq.saturating_sub(after.saturating_add(1));
                if lost != 0 {
                    data.extend_from_slice(format!(": {lost} events forgotten\n\n").as_bytes());
                }
                let json = serde_json::to_string(event).unwrap_or_default();
                let name = event.event_type.name();
                data.extend_from_slice(
                    format!("id: {}\nevent: {name}\ndata: {json}\n\n", event.seq).as_bytes(),
                );
                *after = event.seq;
                return false;
            }
            until.is_some()
        }
    }
}
