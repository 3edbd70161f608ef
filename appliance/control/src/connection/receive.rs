//! Bodies arriving.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use api::limits::JSON_MAX;
use api::{Code, Problem};

use super::{Connection, State};
use crate::backend::Backend;
use crate::http::chunked::{Chunked, Step};
use crate::http::head::{BodyLength, Head};
use crate::http::reply::Reply;
use crate::lease::Lease;
use crate::server::{Body, Plan, Server};

/// Memory for bodies is leased in pieces of this many bytes.
const LEASE_BYTES: usize = 16 << 10;

/// A request whose body is arriving.
#[derive(Debug)]
pub(super) struct Receiving {
    head: Head,
    framing: Framing,
    plan: Plan,
    collected: Vec<u8>,
    leases: Vec<Lease>,
}

/// How much of a body is to come.
#[derive(Debug)]
enum Framing {
    /// This many bytes.
    Left(u64),
    /// Chunks.
    Chunked(Chunked),
}

/// What a piece of a body came to.
enum Taken {
    /// So many bytes were taken, and more can be.
    Some(usize),
    /// So many bytes were taken; the receiver is busy, or more has to arrive first.
    Pause(usize),
    /// So many bytes were taken, and the body is whole.
    Whole(usize),
    /// The body is refused.
    Refused(Problem),
}

impl Connection {
    /// Begins to receive the body of a request, if it has one.
    pub(super) fn receive(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        head: Head,
        plan: Plan,
    ) {
        let framing = match head.body {
            BodyLength::None => Framing::Left(0),
            BodyLength::Bytes(bytes) => Framing::Left(bytes),
            BodyLength::Chunked => Framing::Chunked(Chunked::default()),
        };
        let json_max = u64::try_from(JSON_MAX).unwrap_or(u64::MAX);
        if let (Plan::Collect, Framing::Left(bytes)) = (&plan, &framing)
            && *bytes > json_max
        {
            let reply = Reply::problem(&too_large());
            self.answer(server, backend, &head, &reply);
            return;
        }
        if head.expects_continue {
            self.out
                .bytes
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.state = State::Body(Box::new(Receiving {
            head,
            framing,
            plan,
            collected: Vec::new(),
            leases: Vec::new(),
        }));
    }

    /// Takes bytes of a body. Returns how many, and whether more can be taken.
    pub(super) fn feed_body(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        input: &[u8],
    ) -> (usize, bool) {
        let State::Body(receiving) = &mut self.state else {
            return (0, false);
        };
        let (bytes, refused) = match receiving.take(server, backend, input) {
            Taken::Some(bytes) => return (bytes, true),
            Taken::Pause(bytes) => return (bytes, false),
            Taken::Whole(bytes) => (bytes, None),
            Taken::Refused(problem) => (input.len(), Some(problem)),
        };
        let State::Body(receiving) = core::mem::replace(&mut self.state, State::Head) else {
            return (bytes, false);
        };
        let Receiving {
            head,
            plan,
            collected,
            ..
        } = *receiving;
        if let Some(problem) = refused {
            self.answer(server, backend, &head, &Reply::problem(&problem));
            return (bytes, false);
        }
        let body = match plan {
            Plan::Collect => Body::Bytes(collected),
            Plan::Upload(upload) => Body::Upload(upload),
            Plan::Console(_) => Body::Typed,
        };
        let answer = server.finish(backend, &head, body);
        self.act(server, backend, head, answer);
        (bytes, true)
    }
}

impl Receiving {
    fn take(&mut self, server: &mut Server, backend: &mut dyn Backend, input: &[u8]) -> Taken {
        let (skipped, data) = match &mut self.framing {
            Framing::Left(0) => return Taken::Whole(0),
            Framing::Left(left) => {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                (0, here)
            }
            Framing::Chunked(chunked) => match chunked.step(input) {
                Ok((skipped, Step::More)) => return Taken::Pause(skipped),
                Ok((skipped, Step::End)) => return Taken::Whole(skipped),
                Ok((skipped, Step::Data(here))) => (skipped, here),
                Err(why) => return Taken::Refused(Problem::new(Code::BadRequest, why.0)),
            },
        };
        let end = skipped.saturating_add(data);
        let data = input.get(skipped..end).unwrap_or_default();
        if data.is_empty() {
            return Taken::Pause(skipped);
        }
        let used = match self.put(server, backend, data) {
            Ok(used) => used,
            Err(problem) => return Taken::Refused(problem),
        };
        match &mut self.framing {
            Framing::Left(left) => {
                *left = left.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX));
            }
            Framing::Chunked(chunked) => chunked.data_taken(used),
        }
        let taken = skipped.saturating_add(used);
        if used == 0 {
            Taken::Pause(taken)
        } else {
            Taken::Some(taken)
        }
    }

    /// Gives data to its receiver; returns how much it took.
    fn put(
        &mut self,
        server: &mut Server,
        backend: &mut dyn Backend,
        data: &[u8],
    ) -> Result<usize, Problem> {
        match &self.plan {
            Plan::Upload(upload) => server.upload_append(backend, upload, data),
            Plan::Console(key) => server.console_input(backend, *key, data).ok_or_else(|| {
                Problem::new(
                    Code::VmNotFound,
                    "the VM was deleted while its console was typed at",
                )
            }),
            Plan::Collect => {
                let bytes = self.collected.len().saturating_add(data.len());
                if bytes > JSON_MAX {
                    return Err(too_large());
                }
                while self.leases.len().saturating_mul(LEASE_BYTES) < bytes {
                    let lease = server.bodies.lease(LEASE_BYTES).ok_or_else(|| {
                        Problem::new(
                            Code::Busy,
                            "the appliance holds as many request bodies as it can at the moment",
                        )
                    })?;
                    self.leases.push(lease);
                }
                self.collected.extend_from_slice(data);
                Ok(data.len())
            }
        }
    }
}

fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("the body is larger than {JSON_MAX} bytes"),
    )
}
