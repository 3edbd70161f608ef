//! `/v1/vms/{name}/memory`: what a VM's memory is made of, and what is done to it.

use alloc::format;
use alloc::vec::Vec;

use api::limits::{MEMORY_BITMAP_BYTES_MAX, MEMORY_VALUES_MAX};
use api::{
    Code, EventType, MemoryAction, MemoryDone, MemoryKind, MemoryPolicy, MemoryRequest, MemoryScan,
    Problem,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Server;
use super::vms::{Phase, path};
use crate::backend::{Backend, MemoryError, MemoryJob, RunId};
use crate::http::reply::Reply;

/// Where a guest's RAM begins.
const RAM_BASE: u64 = 1 << 30;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// Leaves that there are.
const LEAVES: [u64; 3] = [PAGE, 2 << 20, 1 << 30];

impl Server {
    /// Returns the run of a VM whose guest runs, and its RAM.
    fn guest(&self, name: &str) -> Result<(RunId, u64), Problem> {
        let vm = self.vm(name)?;
        match vm.phase {
            Phase::Running(run) => Ok((run, vm.spec.memory_bytes)),
            _ => Err(not_running(name)),
        }
    }

    /// Returns the run that VM `name` is to share memory of.
    fn source(&self, name: &str, from: &str, job: &MemoryJob) -> Result<RunId, Problem> {
        if name == from {
            return Err(invalid().field("/from", "another VM"));
        }
        let (run, ram_bytes) = self.guest(from)?;
        let end = RAM_BASE.saturating_add(ram_bytes);
        if job.start.saturating_add(job.bytes) > end {
            return Err(invalid().field("/bytes", format!("the RAM of VM '{from}' ends at {end}")));
        }
        Ok(run)
    }

    pub(super) fn memory_get(&self, backend: &dyn Backend, name: &str) -> Result<Reply, Problem> {
        let (run, _) = self.guest(name)?;
        let memory = backend.vm_memory(run).ok_or_else(|| not_running(name))?;
        Ok(Reply::json(200, &memory))
    }

    pub(super) fn memory_set(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        policy: &MemoryPolicy,
    ) -> Result<Reply, Problem> {
        let (run, _) = self.guest(name)?;
        if policy
            .largest_leaf_bytes
            .is_some_and(|bytes| !LEAVES.contains(&bytes))
        {
            return Err(invalid().field(
                "/largest_leaf_bytes",
                "4096, 2097152 or 1073741824 is expected",
            ));
        }
        backend
            .vm_memory_policy(run, policy)
            .map_err(|error| refusal(name, error))?;
        self.event(EventType::Lifecycle, "vm.memory-policy", path(name), &[]);
        self.memory_get(backend, name)
    }

    pub(super) fn memory_act(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        request: &MemoryRequest,
    ) -> Result<Reply, Problem> {
        let (run, ram_bytes) = self.guest(name)?;
        let mut job = job(request, ram_bytes)?;
        if let Some(from) = &request.from {
            job.from = Some(self.source(name, from, &job)?);
        }
        let result = backend
            .vm_memory_act(run, &job)
            .map_err(|error| refusal(name, error))?;
        let action = match request.action {
            MemoryAction::Reclaim => Some("vm.memory-reclaimed"),
            MemoryAction::SetKeys => Some("vm.memory-keys-set"),
            MemoryAction::SetStates => Some("vm.memory-states-set"),
            MemoryAction::Share => Some("vm.memory-shared"),
            MemoryAction::Scan
            | MemoryAction::Move
            | MemoryAction::Split
            | MemoryAction::GetKeys
            | MemoryAction::GetStates => None,
        };
        if let Some(action) = action {
            let bytes = [("bytes", format!("{}", result.bytes))];
            self.event(EventType::Lifecycle, action, path(name), &bytes);
        }
        Ok(Reply::json(
            200,
            &MemoryDone {
                bytes: result.bytes,
                next: result.next,
                bitmap: STANDARD.encode(&result.bitmap),
                values: STANDARD.encode(&result.values),
            },
        ))
    }
}

fn invalid() -> Problem {
    Problem::new(
        Code::Invalid,
        "this cannot be done to the memory of a virtual machine",
    )
}

fn not_running(name: &str) -> Problem {
    Problem::new(
        Code::VmNotRunning,
        format!("VM '{name}' does not run, so it has no memory"),
    )
    .hint("start it first")
}

fn refusal(name: &str, error: MemoryError) -> Problem {
    match error {
        MemoryError::NotRunning => not_running(name),
        MemoryError::OutsideRam => {
            invalid().field("/start", format!("outside the RAM of VM '{name}'"))
        }
        MemoryError::Invalid => invalid().field("/values", "not what a page can have"),
        MemoryError::Off => Problem::new(
            Code::MemoryFacilityOff,
            format!("the guest in VM '{name}' does not use page states"),
        )
        .hint("the guest turns them on with its first PAGE_STATE call"),
        MemoryError::Busy => Problem::new(
            Code::VmBusy,
            format!("the guest in VM '{name}' keeps changing what was to be changed"),
        )
        .hint("send the request again"),
        MemoryError::NotShareable => Problem::new(
            Code::MemoryFacilityOff,
            format!("VM '{name}', or the one it was to share with, shares no memory"),
        )
        .hint("a VM with storage keys or devices, or one that is wiped, shares none"),
        MemoryError::Populated => invalid().field(
            "/start",
            format!("the guest in VM '{name}' has memory of its own in that range"),
        ),
        MemoryError::NoMemory => Problem::new(
            Code::NoMemory,
            "the machine has no memory left for the tables that this needs",
        )
        .hint("stop a VM, or delete an image"),
    }
}

/// Checks a request against the VM's RAM.
fn job(request: &MemoryRequest, ram_bytes: u64) -> Result<MemoryJob, Problem> {
    let mut problem = invalid();
    let end = RAM_BASE.saturating_add(ram_bytes);
    let start = request.start.unwrap_or(RAM_BASE);
    if !start.is_multiple_of(PAGE) || start < RAM_BASE || start >= end {
        problem = problem.field(
            "/start",
            format!("a multiple of 4096 from {RAM_BASE} to below {end}"),
        );
    }
    let values = STANDARD.decode(&request.values).unwrap_or_default();
    if values.is_empty() != request.values.is_empty() {
        problem = problem.field("/values", "base64 (RFC 4648, section 4)");
    }
    if values.len() > MEMORY_VALUES_MAX {
        problem = problem.field("/values", format!("at most {MEMORY_VALUES_MAX} pages"));
    }
    let writes = matches!(
        request.action,
        MemoryAction::SetKeys | MemoryAction::SetStates
    );
    if writes == values.is_empty() {
        let what = if writes {
            "a byte for each page is needed"
        } else {
            "nothing is written by this action"
        };
        problem = problem.field("/values", what);
    }
    let rest = end.saturating_sub(start);
    let reads = matches!(
        request.action,
        MemoryAction::GetKeys | MemoryAction::GetStates
    );
    let bytes = match request.bytes {
        _ if writes => (values.len() as u64).saturating_mul(PAGE),
        Some(bytes) => bytes,
        None if reads => rest.min((MEMORY_VALUES_MAX as u64).saturating_mul(PAGE)),
        None => rest,
    };
    if !bytes.is_multiple_of(PAGE) || bytes == 0 || bytes > rest {
        problem = problem.field(
            "/bytes",
            format!("a multiple of 4096, at most {rest} from there"),
        );
    }
    if reads && bytes / PAGE > MEMORY_VALUES_MAX as u64 {
        problem = problem.field("/bytes", format!("at most {MEMORY_VALUES_MAX} pages"));
    }
    if request.bitmap && bytes > MEMORY_BITMAP_BYTES_MAX {
        problem = problem.field(
            "/bytes",
            format!("at most {MEMORY_BITMAP_BYTES_MAX} with a bitmap"),
        );
    }
    let scans = request.action == MemoryAction::Scan;
    if scans != request.scan.is_some() {
        problem = problem.field("/scan", "says what a scan looks for, and nothing else");
    }
    let shares = request.action == MemoryAction::Share;
    if shares != request.from.is_some() {
        problem = problem.field("/from", "says whose memory is shared, and nothing else");
    }
    if problem.errors.is_empty() {
        let kinds = match request.kinds.is_empty() {
            true => Vec::from([MemoryKind::Unused, MemoryKind::Zero]),
            false => request.kinds.clone(),
        };
        Ok(MemoryJob {
            action: request.action,
            start,
            bytes,
            scan: request.scan.unwrap_or(MemoryScan::Young),
            bitmap: request.bitmap,
            kinds,
            most_bytes: request.most_bytes,
            values,
            from: None,
        })
    } else {
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    fn request(action: MemoryAction) -> MemoryRequest {
        MemoryRequest {
            action,
            start: None,
            bytes: None,
            scan: None,
            bitmap: false,
            kinds: Vec::new(),
            most_bytes: 0,
            values: String::new(),
            from: None,
        }
    }

    fn fields(request: &MemoryRequest) -> Vec<String> {
        match job(request, 64 << 20) {
            Ok(_) => Vec::new(),
            Err(problem) => problem.errors.into_iter().map(|e| e.pointer).collect(),
        }
    }

    #[test]
    fn a_range_is_whole_pages_of_ram() {
        let all = job(&request(MemoryAction::Reclaim), 64 << 20).expect("is right");
        assert_eq!((all.start, all.bytes), (1 << 30, 64 << 20));
        assert_eq!(all.kinds, [MemoryKind::Unused, MemoryKind::Zero]);
        for (start, bytes, wrong) in [
            (0x4000_0000, 0x1000, None),
            (0x43ff_f000, 0x1000, None),
            (0x43ff_f000, 0x2000, Some("/bytes")),
            (0x4000_0000, 0, Some("/bytes")),
            (0x4000_0000, 77, Some("/bytes")),
            (0x4000_0001, 0x1000, Some("/start")),
            (0x3fff_f000, 0x1000, Some("/start")),
            (0x4400_0000, 0x1000, Some("/start")),
            (u64::MAX - 4095, 0x1000, Some("/start")),
        ] {
            let mut asked = request(MemoryAction::Move);
            (asked.start, asked.bytes) = (Some(start), Some(bytes));
            let found = fields(&asked);
            assert_eq!(
                found.first().map(String::as_str),
                wrong,
                "{start:#x} {bytes:#x}"
            );
        }
    }

    #[test]
    fn what_an_action_does_not_use_is_refused() {
        let mut scan = request(MemoryAction::Scan);
        assert_eq!(fields(&scan), ["/scan"]);
        scan.scan = Some(MemoryScan::Dirty);
        assert!(fields(&scan).is_empty());
        let mut share = request(MemoryAction::Share);
        assert_eq!(fields(&share), ["/from"]);
        share.from = Some("web".into());
        assert!(fields(&share).is_empty());
        share.action = MemoryAction::Move;
        assert_eq!(fields(&share), ["/from"]);
        let mut keys = request(MemoryAction::SetKeys);
        assert_eq!(fields(&keys), ["/values", "/bytes"]);
        keys.values = "EBA=".into();
        let job = job(&keys, 64 << 20).expect("is right");
        assert_eq!((job.bytes, job.values), (8192, [0x10, 0x10].to_vec()));
        keys.values = "?".into();
        assert!(fields(&keys).contains(&"/values".into()));
        let mut read = request(MemoryAction::GetStates);
        read.values = "EBA=".into();
        assert_eq!(fields(&read), ["/values"]);
    }
}
