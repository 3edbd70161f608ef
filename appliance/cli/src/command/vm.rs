//! `skete vm …`.

use skete_client::api::limits::WEIGHT_DEFAULT;
use skete_client::api::{Action, Vm, VmState};
use skete_client::{Client, Error, size};

use super::cpu;
use crate::args::{CreateArgs, VmCommand};
use crate::output::{Output, print, table};
use crate::progress::Bar;
use crate::spec_file::SpecFile;

/// Runs a VM command.
pub(crate) fn run(client: &Client, output: &Output, command: VmCommand) -> Result<(), Error> {
    match command {
        VmCommand::Create(args) => create(client, output, args),
        VmCommand::Start { names } => act(client, output, &names, |_| Ok(Action::Start)),
        VmCommand::Stop { names, force: _ } => act(client, output, &names, |_| Ok(Action::Stop)),
        VmCommand::Reset { names } => act(client, output, &names, |_| Ok(Action::Reset)),
        VmCommand::Serror {
            name,
            vcpu,
            syndrome,
        } => {
            client.vm_serror(&name, vcpu, syndrome)?;
            output.done(&format!("{name}: an SError is pending in vCPU {vcpu}"))
        }
        VmCommand::Restart { names } => {
            let again = |name: &str| {
                Ok(match client.vm_get(name)?.status.state {
                    VmState::Running => Action::Reset,
                    // Between two states the appliance says what it can do.
                    _ => Action::Start,
                })
            };
            act(client, output, &names, again)
        }
        VmCommand::Ls => list(client, output),
        VmCommand::Show { name } => show(output, &client.vm_get(&name)?),
        VmCommand::Cpu(command) => cpu::run(client, output, command),
        VmCommand::Memory(command) => super::memory::run(client, output, command),
        VmCommand::Rm { names, force } => {
            for name in names {
                if force {
                    client.vm_delete_forced(&name)?;
                } else {
                    client.vm_delete(&name)?;
                }
                output.done(&format!("{name}: deleted"))?;
            }
            Ok(())
        }
    }
}

fn create(client: &Client, output: &Output, args: CreateArgs) -> Result<(), Error> {
    let mut file = match &args.file {
        Some(path) => SpecFile::read(path)?,
        None => SpecFile::default(),
    };
    let name = args
        .name
        .or_else(|| file.name.take())
        .ok_or_else(|| Error::Usage("NAME is needed, on the command line or in the file".into()))?;
    if args.kernel.is_some() || args.flat.is_some() || args.elf.is_some() {
        // What is booted is one choice: the command line's replaces the file's.
        (file.boot.kernel, file.boot.flat, file.boot.elf) = (args.kernel, args.flat, args.elf);
    }
    file.boot.initrd = args.initrd.or(file.boot.initrd);
    file.boot.cmdline = args.cmdline.or(file.boot.cmdline);
    file.cpus = args.cpus.or(file.cpus);
    file.memory = args.memory.or(file.memory);
    if !args.devices.is_empty() {
        file.devices = args.devices;
    }
    if let Some(features) = args.cpu_features {
        file.cpu_features.add(&features);
    }
    cpu::merge(&mut file.cpu, args.cpu);
    if file.boot.kernel.is_none() && file.boot.flat.is_none() && file.boot.elf.is_none() {
        return Err(Error::Usage(
            "one of --kernel, --flat and --elf is needed, or a file (-f) that says what to boot"
                .into(),
        ));
    }
    let vm = client.vm_create(&name, &file.into_spec())?;
    if output.json {
        return output.json(&vm);
    }
    output.done(&format!("{name}: defined"))
}

fn act(
    client: &Client,
    output: &Output,
    names: &[String],
    action: impl Fn(&str) -> Result<Action, Error>,
) -> Result<(), Error> {
    let mut vms = Vec::new();
    for name in names {
        let action = action(name)?;
        let mut bar = Bar::new(*output, name);
        let result = client.vm_action(name, action, &mut |done, all| bar.update(done, all));
        drop(bar);
        let vm = result?;
        output.done(&format!("{name}: {}", vm.status.state.name()))?;
        vms.push(vm);
    }
    if output.json {
        output.json(&vms)
    } else {
        Ok(())
    }
}

/// What a VM boots, in a word.
fn boots(vm: &Vm) -> String {
    let boot = &vm.spec.boot;
    let image = [&boot.kernel, &boot.flat, &boot.elf]
        .into_iter()
        .flatten()
        .next();
    image.cloned().unwrap_or_default()
}

/// `skete vm ls`.
pub(crate) fn list(client: &Client, output: &Output) -> Result<(), Error> {
    let vms = client.vm_list()?;
    if output.json {
        return output.json(&vms);
    }
    if output.quiet {
        return vms.iter().try_for_each(|vm| print(&vm.name));
    }
    let rows = vms.iter().map(|vm| {
        vec![
            vm.name.clone(),
            vm.status.state.name().into(),
            vm.status.reason.clone(),
            vm.spec.cpus.to_string(),
            size::show(vm.spec.memory_bytes),
            size::show(vm.status.resident_bytes),
            boots(vm),
        ]
    });
    print(&table(
        &[
            "NAME", "STATE", "REASON", "CPUS", "MEMORY", "RESIDENT", "BOOTS",
        ],
        rows,
    ))
}

fn show(output: &Output, vm: &Vm) -> Result<(), Error> {
    if output.json {
        return output.json(vm);
    }
    let (spec, status) = (&vm.spec, &vm.status);
    let mut lines = vec![
        format!("name       {}", vm.name),
        format!("id         {}", vm.id),
        format!("state      {} ({})", status.state.name(), status.reason),
        format!("cpus       {}", spec.cpus),
        format!("weight     {}", spec.cpu.weight.unwrap_or(WEIGHT_DEFAULT)),
        format!("cpu limit  {}", cpu::limit(spec.cpu.limit_percent)),
        format!("memory     {}", size::show(spec.memory_bytes)),
        format!("boots      {}", boots(vm)),
    ];
    for pin in &spec.cpu.pins {
        let (vcpu, cores) = (pin.vcpu, cpu::list(&pin.cores));
        lines.push(format!("pinned     vCPU {vcpu} to {cores}"));
    }
    if !spec.cpu.hide.is_empty() {
        lines.push(format!("hidden     {}", cpu::hidden(&spec.cpu.hide)));
    }
    if let Some(initrd) = &spec.boot.initrd {
        lines.push(format!("initrd     {initrd}"));
    }
    if !spec.boot.cmdline.is_empty() {
        lines.push(format!("cmdline    {}", spec.boot.cmdline));
    }
    for device in &spec.devices {
        lines.push(format!("device     {}", super::device::spec(device)));
    }
    let chosen = spec.cpu_features.named().into_iter();
    let chosen: Vec<String> = chosen
        .filter_map(|(name, on)| Some(format!("{name}={}", if on? { "on" } else { "off" })))
        .collect();
    if !chosen.is_empty() {
        lines.push(format!("features   {}", chosen.join(",")));
    }
    if let Some(error) = &status.last_error {
        lines.push(format!("error      {} ({})", error.detail, error.code));
    }
    lines.extend([
        format!("starts     {}", status.starts),
        format!("resident   {}", size::show(status.resident_bytes)),
        format!("overhead   {}", size::show(status.overhead_bytes)),
        format!("cpu time   {} ms", status.run_ns / 1_000_000),
        format!("stolen     {} ms", status.stolen_ns / 1_000_000),
        format!("console    {} bytes written", status.console_bytes),
    ]);
    let exits: Vec<String> = status
        .exits
        .iter()
        .map(|(reason, count)| format!("{reason}={count}"))
        .collect();
    if !exits.is_empty() {
        lines.push(format!("exits      {}", exits.join(" ")));
    }
    print(&lines.join("\n"))
}
