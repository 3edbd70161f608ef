//! What is under way, and how what was ended.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use api::limits::OPERATIONS_MAX;
use api::{Operation, OperationStatus, Problem, Progress};

/// A number that names an operation; its text form is `op-N`.
pub(crate) type OperationId = u64;

/// A bounded table of operations, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    ring: VecDeque<(OperationId, Operation)>,
    last: OperationId,
}

impl Operations {
    /// Adds an operation that is under way, forgetting the oldest that has ended.
    pub(crate) fn begin(
        &mut self,
        kind: &str,
        resource: String,
        now: Option<String>,
    ) -> OperationId {
        self.last = self.last.saturating_add(1);
        if self.ring.len() >= OPERATIONS_MAX {
            let ended = self
                .ring
                .iter()
                .position(|(_, op)| op.status != OperationStatus::Running)
                .unwrap_or(0);
            self.ring.remove(ended);
        }
        let operation = Operation {
            id: format!("op-{}", self.last),
            kind: kind.into(),
            status: OperationStatus::Running,
            progress: Progress {
                unit: "bytes".into(),
                ..Progress::default()
            },
            resource,
            created_at: now.clone(),
            updated_at: now,
            error: None,
        };
        self.ring.push_back((self.last, operation));
        self.last
    }

    /// Leaves out the numbers up to `last`, which were somebody else's.
    pub(crate) const fn begin_at(&mut self, last: OperationId) {
        self.last = last;
    }

    /// Says how far an operation is.
    pub(crate) fn progress(&mut self, id: OperationId, done: u64, total: u64) {
        if let Some(operation) = self.get_mut(id) {
            operation.progress.done = done;
            operation.progress.total = total;
        }
    }

    /// Ends an operation that is under way.
    pub(crate) fn end(
        &mut self,
        id: OperationId,
        result: Result<(), Problem>,
        now: Option<String>,
    ) {
        let Some(operation) = self.get_mut(id) else {
            return;
        };
        if operation.status != OperationStatus::Running {
            return;
        }
        operation.updated_at = now;
        match result {
            Ok(()) => operation.status = OperationStatus::Succeeded,
            Err(problem) => {
                operation.status = if problem.code == api::Code::Cancelled.name() {
                    OperationStatus::Cancelled
                } else {
                    OperationStatus::Failed
                };
                operation.error = Some(problem);
            }
        }
    }

    /// Returns an operation.
    pub(crate) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.ring.iter().find(|(n, _)| *n == id).map(|(_, op)| op)
    }

    /// Returns the operation that a client calls `id`.
    pub(crate) fn find(&self, id: &str) -> Option<(OperationId, &Operation)> {
        self.ring
            .iter()
            .find(|(_, op)| op.id == id)
            .map(|(n, op)| (*n, op))
    }

    /// Returns every operation that is remembered, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.ring.iter().map(|(_, op)| op)
    }

    fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.ring
            .iter_mut()
            .find(|(n, _)| *n == id)
            .map(|(_, op)| op)
    }
}
