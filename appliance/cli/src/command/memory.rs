//! `skete vm memory …`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skete_client::api::{
    Memory, MemoryAction, MemoryDone, MemoryKind, MemoryPolicy, MemoryRequest, MemoryScan,
};
use skete_client::{Client, Error, size};

use crate::args::memory::{Keys, MemoryCommand, Range};
use crate::output::{Output, print, table};
use crate::progress::Bar;

const PAGE: u64 = 4096;
/// Pages whose keys or states go into one request.
const PAGES: usize = 4096;

/// Runs a memory command.
pub(crate) fn run(client: &Client, output: &Output, command: MemoryCommand) -> Result<(), Error> {
    match command {
        MemoryCommand::Show { name } => show(output, &client.memory_get(&name)?),
        MemoryCommand::Set {
            name,
            limit,
            largest_leaf,
            wipe,
            exact_dirty,
            share_zeroes,
        } => {
            let policy = MemoryPolicy {
                limit_bytes: limit,
                largest_leaf_bytes: largest_leaf,
                wipe,
                exact_dirty,
                share_zeroes,
            };
            show(output, &client.memory_set(&name, &policy)?)
        }
        MemoryCommand::Reclaim {
            name,
            kinds,
            most,
            range,
        } => {
            let mut request = request(MemoryAction::Reclaim, &range);
            request.kinds = kinds.into_iter().map(MemoryKind::from).collect();
            request.most_bytes = most.unwrap_or(0);
            let done = repeat(client, output, &name, request, |_, _| {})?;
            report(output, &name, "given back", &done)
        }
        MemoryCommand::Share { name, from, range } => {
            let mut asked = request(MemoryAction::Share, &range);
            asked.from = Some(from);
            let done = repeat(client, output, &name, asked, |_, _| {})?;
            report(output, &name, "shared", &done)
        }
        MemoryCommand::Move { name, range } => {
            let asked = request(MemoryAction::Move, &range);
            let done = repeat(client, output, &name, asked, |_, _| {})?;
            report(output, &name, "moved", &done)
        }
        MemoryCommand::Split { name, range } => {
            let asked = request(MemoryAction::Split, &range);
            let done = repeat(client, output, &name, asked, |_, _| {})?;
            report(output, &name, "split", &done)
        }
        MemoryCommand::Scan {
            name,
            what,
            list,
            range,
        } => scan(client, output, &name, what.into(), list, &range),
        MemoryCommand::Keys(keys) => values(client, output, keys, Kind::Keys),
        MemoryCommand::States(states) => values(client, output, states, Kind::States),
    }
}

fn request(action: MemoryAction, range: &Range) -> MemoryRequest {
    MemoryRequest {
        action,
        start: range.start,
        bytes: range.length,
        scan: None,
        bitmap: false,
        kinds: Vec::new(),
        most_bytes: 0,
        values: String::new(),
        from: None,
    }
}

/// Makes a request again from where it stopped, until all is done.
fn repeat(
    client: &Client,
    output: &Output,
    name: &str,
    mut request: MemoryRequest,
    mut each: impl FnMut(u64, &MemoryDone),
) -> Result<MemoryDone, Error> {
    let begin = request.start.unwrap_or(1 << 30);
    let all = match request.bytes {
        Some(bytes) => bytes,
        None => client
            .memory_get(name)?
            .promised_bytes
            .saturating_sub(begin.saturating_sub(1 << 30)),
    };
    let most = request.most_bytes;
    let mut bar = Bar::new(*output, name);
    let mut sum = MemoryDone::default();
    let mut at = begin;
    loop {
        let left = begin.saturating_add(all).saturating_sub(at);
        (request.start, request.bytes) = (Some(at), Some(left));
        if request.bitmap {
            request.bytes = Some(left.min(1 << 30));
        }
        let done = client.memory_act(name, &request)?;
        each(at, &done);
        sum.bytes = sum.bytes.saturating_add(done.bytes);
        let asked_to = at.saturating_add(request.bytes.unwrap_or(left));
        at = done.next.unwrap_or(asked_to);
        bar.update(at.saturating_sub(begin), all);
        if at >= begin.saturating_add(all) || (most > 0 && sum.bytes >= most) {
            return Ok(sum);
        }
        request.most_bytes = most.saturating_sub(sum.bytes);
    }
}

fn report(output: &Output, name: &str, what: &str, done: &MemoryDone) -> Result<(), Error> {
    if output.json {
        return output.json(done);
    }
    output.done(&format!("{name}: {} {what}", size::show(done.bytes)))
}

fn on_off(flag: Option<bool>) -> &'static str {
    if flag == Some(true) { "on" } else { "off" }
}

fn show(output: &Output, memory: &Memory) -> Result<(), Error> {
    if output.json {
        return output.json(memory);
    }
    let policy = &memory.policy;
    let limit = policy.limit_bytes.map_or("none".into(), size::show);
    let largest = policy.largest_leaf_bytes.unwrap_or(PAGE);
    let leaves = ["4 KiB", "2 MiB", "1 GiB"]
        .iter()
        .zip(&memory.leaves)
        .map(|(size, count)| format!("{count} x {size}"));
    let facility = |on| if on { "in use" } else { "not used" };
    print(
        &[
            format!("promised      {}", size::show(memory.promised_bytes)),
            format!("resident      {}", size::show(memory.resident_bytes)),
            format!("shared        {}", size::show(memory.shared_bytes)),
            format!("working set   {}", size::show(memory.working_set_bytes)),
            format!("given back    {}", size::show(memory.reclaimed_bytes)),
            format!(
                "tables        {}, {} of keys and states",
                size::show(memory.table_bytes),
                size::show(memory.sidecar_bytes)
            ),
            format!("limit         {limit}"),
            format!("largest leaf  {}", size::show(largest)),
            format!("leaves        {}", leaves.collect::<Vec<_>>().join(", ")),
            format!(
                "faults        {}, {} of them minor",
                memory.faults, memory.minor_faults
            ),
            format!("splits        {}", memory.splits),
            format!("wipe          {}", on_off(policy.wipe)),
            format!("exact dirty   {}", on_off(policy.exact_dirty)),
            format!("share zeroes  {}", on_off(policy.share_zeroes)),
            format!("keys          {}", facility(memory.keys)),
            format!("page states   {}", facility(memory.states)),
        ]
        .join("\n"),
    )
}

/// Turns a bitmap into runs of pages: first address and bytes.
fn runs(start: u64, bitmap: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let bits = bitmap
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    for (at, set) in (start..).step_by(4096).zip(bits) {
        if !set {
            continue;
        }
        match runs.last_mut() {
            Some((from, bytes)) if from.saturating_add(*bytes) == at => {
                *bytes = bytes.saturating_add(PAGE);
            }
            _ => runs.push((at, PAGE)),
        }
    }
    runs
}

fn scan(
    client: &Client,
    output: &Output,
    name: &str,
    what: MemoryScan,
    list: bool,
    range: &Range,
) -> Result<(), Error> {
    let mut request = request(MemoryAction::Scan, range);
    request.scan = Some(what);
    request.bitmap = list;
    let mut found = Vec::new();
    let done = repeat(client, output, name, request, |start, done| {
        // What the server encodes is base64.
        let bitmap = STANDARD.decode(&done.bitmap).unwrap_or_default();
        found.extend(runs(start, &bitmap));
    })?;
    if output.json {
        let ranges: Vec<_> = found
            .iter()
            .map(|(start, bytes)| serde_json::json!({ "start": start, "bytes": bytes }))
            .collect();
        return output.json(&serde_json::json!({ "bytes": done.bytes, "ranges": ranges }));
    }
    if list {
        let rows = found
            .into_iter()
            .map(|(start, bytes)| vec![format!("{start:#x}"), size::show(bytes)]);
        print(&table(&["FROM", "SIZE"], rows))?;
    }
    output.done(&format!("{name}: {} found", size::show(done.bytes)))
}

/// What is kept for each page.
#[derive(Clone, Copy)]
enum Kind {
    Keys,
    States,
}

fn values(client: &Client, output: &Output, command: Keys, kind: Kind) -> Result<(), Error> {
    let (read, write) = match kind {
        Kind::Keys => (MemoryAction::GetKeys, MemoryAction::SetKeys),
        Kind::States => (MemoryAction::GetStates, MemoryAction::SetStates),
    };
    match command {
        Keys::Get {
            name,
            start,
            length,
        } => {
            let range = Range {
                start: Some(start),
                length: Some(length),
            };
            let mut all = Vec::new();
            repeat(client, output, &name, request(read, &range), |_, done| {
                all.extend(STANDARD.decode(&done.values).unwrap_or_default());
            })?;
            if output.json {
                return output.json(&all);
            }
            let rows = equal(start, &all).into_iter().map(|(start, bytes, value)| {
                vec![
                    format!("{start:#x}"),
                    size::show(bytes),
                    match kind {
                        Kind::Keys => key(value),
                        Kind::States => state(value),
                    },
                ]
            });
            print(&table(&["FROM", "SIZE", "VALUE"], rows))
        }
        Keys::Set {
            name,
            start,
            length,
            value,
        } => {
            let mut request = request(write, &Range::default());
            let pages = usize::try_from(length / PAGE).unwrap_or(usize::MAX);
            let mut done = 0_usize;
            while let Some(left @ 1..) = pages.checked_sub(done) {
                let at = start.saturating_add((done as u64).saturating_mul(PAGE));
                request.start = Some(at);
                request.values = STANDARD.encode(vec![value; left.min(PAGES)]);
                let bytes = client.memory_act(&name, &request)?.bytes;
                done = done.saturating_add(usize::try_from(bytes / PAGE).unwrap_or(0).max(1));
            }
            output.done(&format!("{name}: {} set", size::show(length)))
        }
    }
}

/// Runs of equal values: first address, bytes, value.
fn equal(start: u64, values: &[u8]) -> Vec<(u64, u64, u8)> {
    let mut runs: Vec<(u64, u64, u8)> = Vec::new();
    for (at, value) in (start..).step_by(4096).zip(values) {
        match runs.last_mut() {
            Some((_, bytes, same)) if same == value => *bytes = bytes.saturating_add(PAGE),
            _ => runs.push((at, PAGE, *value)),
        }
    }
    runs
}

fn key(value: u8) -> String {
    let flags = [
        (0x08, "fetch-protected"),
        (0x04, "referenced"),
        (0x02, "changed"),
    ];
    let flags = flags.iter().filter(|(bit, _)| value & bit != 0);
    let words = flags.map(|(_, word)| format!(" {word}"));
    format!(
        "{:#04x}: key {}{}",
        value,
        value >> 4,
        words.collect::<String>()
    )
}

fn state(value: u8) -> String {
    let usage = match value & 3 {
        0 => "stable",
        1 => "unused",
        2 => "potentially volatile",
        _ => "volatile",
    };
    let tables = if value & 0x40 == 0 { "" } else { ", no tables" };
    format!("{value:#04x}: {usage}{tables}")
}

#[cfg(test)]
mod tests {
    use super::{equal, key, runs, state};

    #[test]
    fn bits_that_follow_each_other_are_one_run() {
        let found = runs(0x4000_0000, &[0b1000_0110, 0b0000_0001, 0b1000_0000]);
        let expected = [
            (0x4000_1000, 0x2000),
            (0x4000_7000, 0x2000),
            (0x4001_7000, 0x1000),
        ];
        assert_eq!(found, expected);
        assert!(runs(0, &[]).is_empty());
    }

    #[test]
    fn values_are_told_in_runs_and_words() {
        assert_eq!(
            equal(0x4000_0000, &[1, 1, 3]),
            [(0x4000_0000, 0x2000, 1), (0x4000_2000, 0x1000, 3)]
        );
        assert_eq!(key(0x5c), "0x5c: key 5 fetch-protected referenced");
        assert_eq!(state(0x43), "0x43: volatile, no tables");
    }
}
