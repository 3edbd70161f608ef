//! Consoles: read, followed, typed at, and taken over.

use alloc::format;

use api::{Code, Problem};

use super::Server;
use super::dispatch::{Answer, StreamKind, flag};
use super::vms::{VmRecord, shown};
use crate::backend::Backend;
use crate::http::head::Head;
use crate::http::reply::{Reply, TEXT};

/// When a console or a followed log is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// When the VM is deleted.
    Deleted,
    /// Or when it has stopped and all that it printed was sent. One that is stopped at the
    /// beginning is waited for, as `skete console` is often typed before `skete vm start`;
    /// this is how often it had been started then, if it was stopped.
    Stopped {
        /// It ends once the VM has been started more often.
        starts: Option<u64>,
    },
}

/// Reads `until=`: when a console or a followed log is over.
fn end(vm: &VmRecord, head: &Head) -> Result<End, Problem> {
    match head.query_value("until") {
        None | Some("deleted") => Ok(End::Deleted),
        Some("stopped") => Ok(End::Stopped {
            starts: (!vm.state().is_active()).then_some(vm.starts),
        }),
        Some(other) => Err(Problem::new(
            Code::BadQuery,
            format!("until={} is neither stopped nor deleted", shown(other)),
        )),
    }
}

impl Server {
    pub(super) fn console(&self, name: &str, head: &Head) -> Result<Answer, Problem> {
        let vm = self.vm(name)?;
        let protocol = api::limits::CONSOLE_PROTOCOL;
        if head.lists("connection", "upgrade") && head.lists("upgrade", protocol) {
            return Ok(Answer::Console(vm.key, end(vm, head)?));
        }
        let problem = Problem::new(
            Code::UpgradeRequired,
            format!("the console is a stream both ways, after an upgrade to '{protocol}'"),
        )
        .hint("use 'skete console', or GET …/console/log and POST …/console/input");
        Ok(Answer::Reply(
            Reply::problem(&problem).header("Upgrade", protocol),
        ))
    }

    pub(super) fn console_log(&self, name: &str, head: &Head) -> Result<Answer, Problem> {
        let vm = self.vm(name)?;
        let follow = flag(head, "follow")?;
        let from = match head.query_value("from") {
            Some(from) => from.parse().map_err(|_| {
                Problem::new(Code::BadQuery, "from= wants a position in bytes, a number")
            })?,
            None => vm.scrollback.start(),
        };
        if follow {
            return Ok(Answer::Stream(StreamKind::Log {
                key: vm.key,
                next: from,
                end: end(vm, head)?,
            }));
        }
        let mut reply = Reply::text(TEXT, "")
            .header("Console-Start", format!("{}", vm.scrollback.start()))
            .header("Console-End", format!("{}", vm.scrollback.end()));
        let mut next = from;
        loop {
            let (piece, after) = vm.scrollback.read(next, usize::MAX);
            if piece.is_empty() {
                break;
            }
            reply.body.extend_from_slice(piece);
            next = after;
        }
        Ok(Answer::Reply(reply))
    }

    pub(super) fn console_target(&self, name: &str) -> Result<u64, Problem> {
        let vm = self.vm(name)?;
        if vm.run().is_some() {
            Ok(vm.key)
        } else {
            Err(Problem::new(
                Code::VmNotRunning,
                format!(
                    "VM '{name}' is {}, so nobody reads its console",
                    vm.state().name()
                ),
            )
            .hint("start the VM"))
        }
    }
}

/// Console access by key, for connections that outlive a name.
impl Server {
    /// Returns console output from position `from` on, and the position after it; `None`
    /// if the VM is gone.
    pub(crate) fn console_output(&self, key: u64, from: u64, max: usize) -> Option<(&[u8], u64)> {
        let vm = self.vms.values().find(|vm| vm.key == key)?;
        Some(vm.scrollback.read(from, max))
    }

    /// Returns whether a console that ends so is over, once all output was sent.
    pub(crate) fn console_is_over(&self, key: u64, end: End) -> bool {
        let End::Stopped { starts } = end else {
            return false;
        };
        let vm = self.vms.values().find(|vm| vm.key == key);
        vm.is_none_or(|vm| !vm.state().is_active() && starts.is_none_or(|then| vm.starts > then))
    }

    /// Types at a console. Returns how many bytes were taken: all, if nobody reads.
    /// `None` if the VM is gone.
    pub(crate) fn console_input(
        &self,
        backend: &mut dyn Backend,
        key: u64,
        input: &[u8],
    ) -> Option<usize> {
        let vm = self.vms.values().find(|vm| vm.key == key)?;
        Some(match vm.run() {
            Some(run) => backend.console_write(run, input).min(input.len()),
            None => input.len(),
        })
    }
}
