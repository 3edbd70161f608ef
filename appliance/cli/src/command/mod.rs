//! What each command does.

pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod image;
pub(crate) mod memory;
pub(crate) mod vm;

use std::time::{Duration, Instant};

use skete_client::api::PowerAction;
use skete_client::{Client, Error, size};

use crate::args::EventsArgs;
use crate::output::{Output, print};

/// `skete host`.
pub(crate) fn host(client: &Client, output: &Output) -> Result<(), Error> {
    let info = client.host()?;
    if output.json {
        return output.json(&info);
    }
    let machine = &info.machine;
    let cpu = &machine.cpu;
    let seconds = info.uptime_ns / 1_000_000_000;
    let used = machine.ram_bytes.saturating_sub(machine.free_bytes);
    print(&format!(
        "Skete {} at {}\n\
         up       {seconds} s\n\
         cpu      {} x {} ({} {}, MIDR {})\n\
         memory   {} in all, {} used, {} free\n\
         skete    core {}, root {}, images {}\n\
         vms      {} of at most {} hold resources",
        info.version,
        client.url(),
        machine.cores,
        cpu.model,
        cpu.implementer,
        cpu.revision,
        cpu.midr,
        size::show(machine.ram_bytes),
        size::show(used),
        size::show(machine.free_bytes),
        size::show(machine.core_bytes),
        size::show(machine.root_bytes),
        size::show(machine.granted_bytes),
        machine.vms,
        machine.vms_max,
    ))
}

/// `skete events`.
pub(crate) fn events(client: &Client, output: &Output, args: &EventsArgs) -> Result<(), Error> {
    let since = match (args.since, args.no_follow) {
        // Everything remembered: "now" would be an empty list.
        (None, true) => Some(0),
        (since, _) => since,
    };
    for event in client.events(since, !args.no_follow)? {
        let event = event?;
        if output.json {
            // One line each, so that a filter can read along.
            let line =
                serde_json::to_string(&event).map_err(|why| Error::Protocol(why.to_string()))?;
            print(&line)?;
            continue;
        }
        let context: Vec<String> = event
            .context
            .iter()
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        print(&format!(
            "{:>6}  {}  {:<14} {}{}",
            event.seq,
            event.time.as_deref().unwrap_or("-"),
            event.action,
            event.resource,
            context.concat()
        ))?;
    }
    Ok(())
}

/// `skete shutdown`.
pub(crate) fn shutdown(client: &Client, output: &Output, reset: bool) -> Result<(), Error> {
    let action = if reset {
        PowerAction::Reset
    } else {
        PowerAction::Shutdown
    };
    client.power(action)?;
    output.done(if reset { "restarting" } else { "shutting down" })
}

/// `skete restart-control`.
pub(crate) fn restart_control(client: &Client, output: &Output, wait: bool) -> Result<(), Error> {
    /// How long the next control plane may take, and how often it is looked for.
    const PATIENCE: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_secs(1);
    let before = client.host()?.boot_id;
    client.power(PowerAction::RestartControl)?;
    if !wait {
        return output.done("restarting the control plane");
    }
    let begun = Instant::now();
    loop {
        // First of all: what is sent before the next one has its address is sent again only
        // seconds later.
        std::thread::sleep(PAUSE);
        match client.host() {
            Ok(info) if info.boot_id != before => return output.done("restarted"),
            // Nobody answers while there is none.
            Ok(_) | Err(_) if begun.elapsed() < PATIENCE => {}
            Ok(_) => {
                return Err(Error::Usage(
                    "the control plane that there was answers still; see its events".into(),
                ));
            }
            Err(why) => return Err(why),
        }
    }
}
