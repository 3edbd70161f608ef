//! `skete vm cpu …`.

use skete_client::api::{CpuChange, GuestFeature, Pin, Vcpu, VmCpu};
use skete_client::{Client, Error};

use crate::args::cpu::{CpuCommand, Hide, NewCpu};
use crate::output::{Output, print, table};
use crate::spec_file::CpuFile;

/// Runs a command about vCPUs.
pub(crate) fn run(client: &Client, output: &Output, command: CpuCommand) -> Result<(), Error> {
    match command {
        CpuCommand::Show { name } => show(output, &client.cpu_get(&name)?),
        CpuCommand::Set { name, share, hide } => {
            let change = CpuChange {
                weight: share.weight,
                limit_percent: share.limit,
                hide: (!hide.is_empty()).then(|| Hide::features(&hide)),
                pins: Vec::new(),
            };
            if change == CpuChange::default() {
                return Err(Error::Usage(
                    "one of --weight, --cpu-limit and --hide is needed".into(),
                ));
            }
            show(output, &client.cpu_set(&name, &change)?)
        }
        CpuCommand::Pin { name, vcpu, cores } => {
            let cores = cores.0;
            let change = CpuChange {
                pins: vec![Pin { vcpu, cores }],
                ..CpuChange::default()
            };
            show(output, &client.cpu_set(&name, &change)?)
        }
    }
}

/// Adds what the command line says to what a file says.
pub(crate) fn merge(file: &mut CpuFile, args: NewCpu) {
    file.weight = args.share.weight.or(file.weight);
    file.limit_percent = args.share.limit.or(file.limit_percent);
    if !args.pins.is_empty() {
        file.pins = args.pins;
    }
    if !args.hide.is_empty() {
        file.hide = Hide::features(&args.hide);
    }
}

/// A limit in words.
pub(crate) fn limit(percent: Option<u32>) -> String {
    percent.map_or("none".into(), |percent| format!("{percent} % of one core"))
}

/// What is hidden, in words.
pub(crate) fn hidden(hide: &[GuestFeature]) -> String {
    let names: Vec<&str> = hide.iter().map(|feature| feature.name()).collect();
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(", ")
    }
}

/// Cores as a list such as `0-1,3`.
pub(crate) fn list(cores: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for core in cores {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*core) => *last = *core,
            _ => runs.push((*core, *core)),
        }
    }
    let words = runs.into_iter().map(|(first, last)| match last {
        last if last == first => format!("{first}"),
        last => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

fn row(vcpu: &Vcpu) -> Vec<String> {
    let ms = |ns: u64| format!("{} ms", ns / 1_000_000);
    vec![
        vcpu.vcpu.to_string(),
        vcpu.state.name().into(),
        vcpu.core.map_or("-".into(), |core| core.to_string()),
        list(&vcpu.cores),
        ms(vcpu.run_ns),
        ms(vcpu.wait_ns),
        ms(vcpu.stolen.queue_ns),
        ms(vcpu.stolen.fault_ns),
        ms(vcpu.stolen.device_ns),
        vcpu.moves.to_string(),
        vcpu.exits.values().sum::<u64>().to_string(),
    ]
}

fn show(output: &Output, cpu: &VmCpu) -> Result<(), Error> {
    if output.json {
        return output.json(cpu);
    }
    print(&format!(
        "weight  {}\nlimit   {}\nhidden  {}\n",
        cpu.weight,
        limit(cpu.limit_percent),
        hidden(&cpu.hide)
    ))?;
    let head = [
        "VCPU",
        "STATE",
        "CORE",
        "MAY RUN ON",
        "RAN",
        "WAITED",
        "QUEUED",
        "FAULTS",
        "DEVICES",
        "MOVES",
        "EXITS",
    ];
    print(&table(&head, cpu.vcpus.iter().map(row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_written_as_they_are_read() {
        for text in ["0", "0-1", "0,2-4,7", ""] {
            let cores = match text {
                "" => Vec::new(),
                text => crate::args::cpu::cores(text).expect("a list").0,
            };
            assert_eq!(list(&cores), text);
        }
    }
}
