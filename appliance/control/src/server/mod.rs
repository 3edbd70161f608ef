//! The server: every name, state and check, and none of the doing.
//!
//! A [`crate::Connection`] asks twice about each request: [`Server::begin`] once the head is
//! there, to learn what to do with the body, and [`Server::finish`] once the body is.
//! [`Server::poll`] moves virtual machines on.

mod console;
mod devices;
mod dispatch;
mod idempotency;
mod images;
mod life;
mod memory;
mod metrics;
mod rebirth;
mod upload;
mod vcpus;
mod vms;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use api::limits::{CONNECTIONS_MAX, JSON_MAX, STREAMS_MAX};
use api::{EventType, PowerAction, Problem};
use sha2::{Digest, Sha256};

use crate::backend::Backend;
use crate::clock;
use crate::events::Events;
use crate::heritage::Restart;
use crate::lease::Pool;
use crate::notes::NOTES;
use crate::operations::{OperationId, Operations};

pub use rebirth::kept_token;

pub(crate) use console::End;
pub(crate) use dispatch::{Answer, Body, Plan, StreamKind, Wait};

use idempotency::Idempotency;
use images::ImageRecord;
use vms::VmRecord;

/// What a server has to know to begin.
#[derive(Clone, Debug)]
pub struct Config {
    /// SHA-256 of the bearer token; see [`crate::auth::token_digest`].
    pub token_sha256: [u8; 32],
    /// Bytes that differ at every start, for identifiers. They need not be secret.
    pub seed: [u8; 32],
    /// Whether the control plane may be asked to fail, to see what becomes of it.
    pub drills: bool,
}

/// Everything the control port knows.
#[derive(Debug)]
pub struct Server {
    config: Config,
    images: BTreeMap<String, ImageRecord>,
    vms: BTreeMap<String, VmRecord>,
    operations: Operations,
    pub(crate) events: Events,
    idempotency: Idempotency,
    /// Requests by pattern and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    next_key: u64,
    pub(crate) connections: Pool,
    pub(crate) streams: Pool,
    /// Bytes of JSON bodies that have arrived and are not yet answered.
    pub(crate) bodies: Pool,
    power: Option<PendingPower>,
    /// When the control plane is to begin anew, and how.
    restart: Option<(u64, Restart)>,
    /// For each note that the backend keeps: the key of what it is about.
    notes: Vec<Option<u64>>,
    /// How often each device had not been ready in time, and how much DMA of it was blocked,
    /// when that was last looked at.
    device_troubles: BTreeMap<String, (u64, u64)>,
    /// When now is, looked at once a turn.
    unix_ns: Option<u64>,
    now_ns: u64,
}

/// The machine is about to be switched off or restarted.
#[derive(Clone, Copy, Debug)]
struct PendingPower {
    action: PowerAction,
    /// Not before, so that the answer gets out.
    earliest_ns: u64,
    /// Not after, whatever still runs.
    latest_ns: u64,
}

/// JSON bodies in memory at a time, in bytes.
const BODIES_BYTES: usize = 2 * JSON_MAX;

impl Server {
    /// Creates a server that knows no image and no VM.
    pub fn new(config: Config) -> Self {
        let mut notes = vec![None; NOTES];
        // The first is about the server itself, and is no key's: those begin at 1.
        if let Some(own) = notes.first_mut() {
            *own = Some(0);
        }
        Self {
            config,
            images: BTreeMap::new(),
            vms: BTreeMap::new(),
            operations: Operations::default(),
            events: Events::default(),
            idempotency: Idempotency::default(),
            requests: BTreeMap::new(),
            next_key: 0,
            connections: Pool::new(CONNECTIONS_MAX),
            streams: Pool::new(STREAMS_MAX),
            bodies: Pool::new(BODIES_BYTES),
            power: None,
            restart: None,
            notes,
            device_troubles: BTreeMap::new(),
            unix_ns: None,
            now_ns: 0,
        }
    }

    /// Moves everything on that does not wait for a client: loads and starts VMs, notices
    /// what became of them, takes their console output. Call it when the backend has news
    /// and at least every [`Self::poll_after_ns`].
    pub fn poll(&mut self, backend: &mut dyn Backend) {
        self.tick(backend);
        self.poll_vms(backend);
        self.poll_devices(backend);
        self.poll_power(backend);
        self.save(backend);
    }

    /// Returns how long [`Self::poll`] may wait if the backend has no news, in nanoseconds.
    pub fn poll_after_ns(&self) -> u64 {
        if self.power.is_some()
            || self.restart.is_some()
            || self.vms.values().any(VmRecord::wants_polling)
        {
            1_000_000
        } else {
            clock::SECOND_NS
        }
    }

    /// Looks at the clocks once, so that all that happens now happens at the same time.
    fn tick(&mut self, backend: &dyn Backend) {
        self.now_ns = backend.now_ns();
        self.unix_ns = backend.unix_ns();
    }

    /// Returns the time as text, if the machine knows it.
    fn now(&self) -> Option<String> {
        clock::rfc3339(self.unix_ns?)
    }

    fn event(
        &mut self,
        event_type: EventType,
        action: &str,
        resource: String,
        context: &[(&str, String)],
    ) {
        let context = context
            .iter()
            .map(|(key, value)| (String::from(*key), value.clone()))
            .collect();
        let when = (self.now(), self.now_ns);
        self.events
            .push(when, event_type, action, resource, context);
    }

    fn end_operation(&mut self, id: Option<OperationId>, result: Result<(), Problem>) {
        if let Some(id) = id {
            self.operations.end(id, result, self.now());
        }
    }

    /// Returns a number that was never returned before.
    fn new_key(&mut self) -> u64 {
        self.next_key = self.next_key.saturating_add(1);
        self.next_key
    }

    /// Returns the UUID (RFC 9562, version 8) that belongs to a key.
    fn uuid(&self, key: u64) -> String {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.config.seed)
            .chain_update(key.to_be_bytes())
            .finalize()
            .into();
        let mut bits = hash
            .iter()
            .take(16)
            .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        bits = bits & !(0xf << 76) | 8 << 76;
        bits = bits & !(0b11 << 62) | 0b10 << 62;
        let hex = format!("{bits:032x}");
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        format!(
            "{}-{}-{}-{}-{}",
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32)
        )
    }

    fn poll_power(&mut self, backend: &mut dyn Backend) {
        if self.power.is_some() {
            // All of it ends anyway.
            self.restart = None;
        }
        if let Some((at_ns, how)) = self.restart
            && self.now_ns >= at_ns
        {
            self.restart = None;
            self.save(backend);
            backend.restart(how);
        }
        let Some(power) = self.power else {
            return;
        };
        let idle = !self.vms.values().any(|vm| vm.state().is_active());
        let due = self.now_ns >= power.earliest_ns && idle || self.now_ns >= power.latest_ns;
        if due {
            self.power = None;
            backend.power(power.action);
        }
    }
}
