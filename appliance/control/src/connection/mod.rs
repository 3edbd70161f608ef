//! One TCP connection: requests in, responses out, never more than a bounded amount of
//! either in memory.
//!
//! A request is read only once the response before it has left. A body is taken only as
//! fast as its receiver takes it; a stream is written only as fast as it is sent. Every
//! refusal ends the connection: the answer is sent, then what the client still sends is
//! dropped for a moment, so that it is not cut off before it has read the answer.

mod receive;
mod stream;

use alloc::boxed::Box;
use alloc::vec::Vec;

use api::{Code, Problem};

use crate::backend::Backend;
use crate::clock::{self, SECOND_NS};
use crate::http::head::{Head, Method, Scanner};
use crate::http::reply::{self, Reply};
use crate::lease::Lease;
use crate::route::Route;
use crate::server::{Answer, End, Server, StreamKind, Wait};
use receive::Receiving;

/// How long a head may take, from its first byte; also how long the first head of a
/// connection may be in coming.
const HEAD_NS: u64 = 10 * SECOND_NS;
/// How long a connection may be idle between requests.
const IDLE_NS: u64 = 60 * SECOND_NS;
/// How long a body may make no progress.
const BODY_NS: u64 = 30 * SECOND_NS;
/// How long output may find no taker.
const SEND_NS: u64 = 60 * SECOND_NS;
/// How long what a refused client still sends is dropped.
const LINGER_NS: u64 = 2 * SECOND_NS;
/// Bytes sent are dropped from memory when there are this many.
const COMPACT_BYTES: usize = 16 << 10;
/// How often an idle stream of events shows that it is alive.
const HEARTBEAT_NS: u64 = 15 * SECOND_NS;

/// One TCP connection.
#[derive(Debug)]
pub struct Connection {
    state: State,
    scanner: Scanner,
    out: Output,
    /// When something last moved on.
    since_ns: u64,
    /// Whether a request was ever answered.
    served: bool,
    _lease: Option<Lease>,
}

/// What a connection is doing.
#[derive(Debug)]
enum State {
    /// Waiting for a head, or in one.
    Head,
    /// In a body.
    Body(Box<Receiving>),
    /// Waiting for an operation.
    Waiting(Box<(Head, Wait)>),
    /// Sending a stream.
    Stream(Stream),
    /// A console, both ways: the VM's key, the position of the next byte of output, and when it
    /// is over.
    Console {
        key: u64,
        next: u64,
        end: End,
        _lease: Lease,
    },
    /// Sending the last answer, then lingering.
    Finish,
    /// Over.
    Closed,
}

/// An endless response.
#[derive(Debug)]
struct Stream {
    kind: StreamKind,
    chunked: bool,
    heartbeat_ns: u64,
    _lease: Lease,
}

/// Bytes to send.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        if self.sent >= self.bytes.len() {
            // A large answer does not keep its memory for as long as the connection lives.
            *self = Self::default();
        } else if self.sent >= COMPACT_BYTES {
            // A stream that is always behind never gets to its end.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

impl Connection {
    /// Begins to serve a connection. One too many is answered with 503 and closed.
    pub fn new(server: &Server, backend: &dyn Backend) -> Self {
        let lease = server.connections.lease(1);
        let over = lease.is_none();
        let mut connection = Self {
            state: State::Head,
            scanner: Scanner::default(),
            out: Output::default(),
            since_ns: backend.now_ns(),
            served: false,
            _lease: lease,
        };
        if over {
            let problem = Problem::new(
                Code::TooManyConnections,
                "the appliance serves no more connections at the moment",
            );
            connection.send(backend, &Reply::problem(&problem), None);
        }
        connection
    }

    /// Takes bytes that arrived, and returns how many. The others are to be offered again
    /// after output was sent, or after [`Self::poll`].
    pub fn feed(&mut self, server: &mut Server, backend: &mut dyn Backend, input: &[u8]) -> usize {
        let mut taken = 0usize;
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            let (bytes, go_on) = match &mut self.state {
                State::Head if self.out.pending().is_empty() && !rest.is_empty() => {
                    self.feed_head(server, backend, rest)
                }
                State::Head | State::Waiting(_) | State::Stream(_) => (0, false),
                State::Body(_) => self.feed_body(server, backend, rest),
                State::Console { key, .. } => {
                    let key = *key;
                    match server.console_input(backend, key, rest) {
                        Some(bytes) => (bytes, false),
                        None => {
                            self.finish(backend);
                            (rest.len(), false)
                        }
                    }
                }
                State::Finish | State::Closed => (rest.len(), false),
            };
            taken = taken.saturating_add(bytes);
            if bytes != 0 {
                self.touch(backend);
            }
            if !go_on {
                return taken;
            }
        }
    }

    /// Returns what is to be sent.
    pub fn output(&self) -> &[u8] {
        self.out.pending()
    }

    /// Says that the first `bytes` bytes of [`Self::output`] were sent.
    pub fn sent(&mut self, backend: &dyn Backend, bytes: usize) {
        if bytes != 0 {
            self.out.sent(bytes);
            self.touch(backend);
        }
    }

    /// Says that the peer will send nothing more.
    pub fn eof(&mut self, backend: &dyn Backend) {
        match self.state {
            // A client may close its side once it has asked, and still read the answer.
            State::Waiting(_) | State::Stream(_) => {}
            _ if self.out.pending().is_empty() => self.state = State::Closed,
            State::Head | State::Body(_) | State::Console { .. } => self.finish(backend),
            State::Finish | State::Closed => {}
        }
    }

    /// Returns whether nothing more will be sent, so that the sending side can be closed.
    pub fn wants_fin(&self) -> bool {
        matches!(self.state, State::Finish | State::Closed) && self.out.pending().is_empty()
    }

    /// Returns whether the connection is over and is to be dropped.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Returns when [`Self::poll`] has to be called at the latest, in nanoseconds of
    /// [`Backend::now_ns`].
    pub fn deadline_ns(&self) -> u64 {
        let limit_ns = self.since_ns.saturating_add(self.limit_ns());
        match &self.state {
            State::Stream(stream) => limit_ns.min(stream.heartbeat_ns),
            State::Waiting(waiting) => limit_ns.min(waiting.1.until_ns()),
            _ => limit_ns,
        }
    }

    /// Moves on what waits: operations, streams, deadlines.
    pub fn poll(&mut self, server: &mut Server, backend: &mut dyn Backend) {
        let now_ns = backend.now_ns();
        match &mut self.state {
            State::Waiting(waiting) => {
                if let Some(reply) = server.settle(backend, &waiting.1) {
                    let State::Waiting(waiting) = core::mem::replace(&mut self.state, State::Head)
                    else {
                        return;
                    };
                    self.answer(server, backend, &waiting.0, &reply);
                }
                return;
            }
            State::Stream(_) | State::Console { .. } => self.poll_stream(server, backend, now_ns),
            State::Head | State::Body(_) | State::Finish | State::Closed => {}
        }
        if now_ns >= self.since_ns.saturating_add(self.limit_ns()) {
            self.expire(server, backend);
        }
    }

    /// How long the present state may last without anything moving on, in nanoseconds.
    fn limit_ns(&self) -> u64 {
        if !self.out.pending().is_empty() {
            return SEND_NS;
        }
        match &self.state {
            State::Head if self.scanner.has_begun() || !self.served => HEAD_NS,
            State::Head => IDLE_NS,
            State::Body(_) => BODY_NS,
            State::Finish => LINGER_NS,
            State::Waiting(_) | State::Stream(_) | State::Console { .. } | State::Closed => {
                u64::MAX
            }
        }
    }

    fn expire(&mut self, server: &mut Server, backend: &dyn Backend) {
        if !self.out.pending().is_empty() {
            self.state = State::Closed;
            return;
        }
        let begun = match self.state {
            State::Head => self.scanner.has_begun(),
            State::Body(_) => true,
            _ => false,
        };
        if begun {
            let problem = Problem::new(
                Code::RequestTimeout,
                "the rest of the request did not arrive in time",
            );
            self.refuse(server, backend, &problem);
        } else {
            self.state = State::Closed;
        }
    }

    fn touch(&mut self, backend: &dyn Backend) {
        // The time for a head counts from its first byte, whatever trickles in after it.
        if !(matches!(self.state, State::Head) && self.scanner.has_begun()) {
            self.since_ns = backend.now_ns();
        }
    }

    /// Takes bytes of a head. Returns how many, and whether more can be taken.
    fn feed_head(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        input: &[u8],
    ) -> (usize, bool) {
        if !self.scanner.has_begun() {
            self.since_ns = backend.now_ns();
        }
        let (taken, head) = self.scanner.take(input);
        match head.map(|bytes| bytes.and_then(|bytes| Head::parse(&bytes))) {
            None => return (taken, false),
            Some(Err(problem)) => self.refuse(server, backend, &problem),
            Some(Ok(head)) => match server.begin(backend, &head) {
                Ok(plan) => self.receive(server, backend, head, plan),
                Err(reply) => self.answer(server, backend, &head, &reply),
            },
        }
        (taken, true)
    }

    /// Sends the answer to a request.
    fn answer(&mut self, server: &mut Server, backend: &dyn Backend, head: &Head, reply: &Reply) {
        let pattern = Route::parse(&head.path).map_or("none", Route::pattern);
        server.count(pattern, reply.status);
        self.send(backend, reply, Some(head));
    }

    /// Answers what was not even a request.
    fn refuse(&mut self, server: &mut Server, backend: &dyn Backend, problem: &Problem) {
        server.count("none", problem.status);
        self.send(backend, &Reply::problem(problem), None);
    }

    fn send(&mut self, backend: &dyn Backend, reply: &Reply, head: Option<&Head>) {
        let keep_alive = head.is_some_and(|head| head.keep_alive) && !reply.is_refusal();
        let with_body = head.is_none_or(|head| head.method != Some(Method::Head));
        let date = clock::http_date(backend);
        reply.encode(&mut self.out.bytes, date.as_deref(), keep_alive, with_body);
        self.served = true;
        if keep_alive {
            self.state = State::Head;
            self.since_ns = backend.now_ns();
        } else {
            self.finish(backend);
        }
    }

    fn finish(&mut self, backend: &dyn Backend) {
        self.state = State::Finish;
        self.since_ns = backend.now_ns();
    }

    /// Does what the server answered.
    fn act(&mut self, server: &mut Server, backend: &mut dyn Backend, head: Head, answer: Answer) {
        match answer {
            Answer::Reply(reply) => self.answer(server, backend, &head, &reply),
            Answer::Wait(wait) => {
                self.state = State::Waiting(Box::new((head, wait)));
                self.poll(server, backend);
            }
            Answer::Stream(kind) if head.method == Some(Method::Head) => {
                let mut reply = Reply::empty(200);
                reply.media_type = Some(kind.media_type());
                self.answer(server, backend, &head, &reply);
            }
            Answer::Stream(kind) => self.begin_stream(server, backend, &head, kind),
            Answer::Console(key, end) => self.begin_console(server, backend, &head, (key, end)),
        }
    }

    fn lease_stream(
        &mut self,
        server: &mut Server,
        backend: &dyn Backend,
        head: &Head,
    ) -> Option<Lease> {
        let lease = server.streams.lease(1);
        if lease.is_none() {
            let problem = Problem::new(
                Code::TooManyStreams,
                "the appliance serves no more consoles, logs and event streams at the moment",
            )
            .hint("close one that is not needed");
            self.answer(server, backend, head, &Reply::problem(&problem));
        }
        lease
    }

    fn begin_stream(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        head: &Head,
        kind: StreamKind,
    ) {
        let Some(lease) = self.lease_stream(server, backend, head) else {
            return;
        };
        let pattern = Route::parse(&head.path).map_or("none", Route::pattern);
        server.count(pattern, 200);
        let date = clock::http_date(backend);
        let out = &mut self.out.bytes;
        reply::stream_head(out, kind.media_type(), date.as_deref(), head.http11);
        self.state = State::Stream(Stream {
            kind,
            chunked: head.http11,
            heartbeat_ns: backend.now_ns().saturating_add(HEARTBEAT_NS),
            _lease: lease,
        });
        self.poll(server, backend);
    }

    fn begin_console(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        head: &Head,
        (key, end): (u64, End),
    ) {
        let Some(lease) = self.lease_stream(server, backend, head) else {
            return;
        };
        server.count("/v1/vms/{name}/console", 101);
        let date = clock::http_date(backend);
        let protocol = api::limits::CONSOLE_PROTOCOL;
        reply::switch_head(&mut self.out.bytes, protocol, date.as_deref(), &[]);
        self.state = State::Console {
            key,
            next: 0,
            end,
            _lease: lease,
        };
        self.poll(server, backend);
    }
}
