//! `skete device …`.

use std::io::Read as _;

use skete_client::api::{Device, DeviceProfile, DeviceSpec, DeviceState};
use skete_client::{Client, Error, Place, size};

use crate::args::device::{AttachArgs, Bytes, DeviceCommand, Place as At};
use crate::output::{Output, print, print_bytes, table};

/// Columns of the longest bar of a histogram.
const BAR: u64 = 40;

/// Runs a device command.
pub(crate) fn run(client: &Client, output: &Output, command: DeviceCommand) -> Result<(), Error> {
    match command {
        DeviceCommand::Ls => list(client, output),
        DeviceCommand::Show { pci } => show(output, &client.device_get(&pci)?),
        DeviceCommand::Attach(args) => attach(client, output, args),
        DeviceCommand::Detach { vm, pci } => detach(client, output, &vm, &pci),
        DeviceCommand::Reset { pci } => {
            client.device_reset(&pci)?;
            output.done(&format!("{pci}: reset"))
        }
        DeviceCommand::Revoke { place, length } => {
            client.device_revoke(&place.pci, at(&place), length)?;
            let length = size::show(length);
            output.done(&format!("{}: {length} revoked", place.pci))
        }
        DeviceCommand::Read { place, length, raw } => {
            let read = client.device_read(&place.pci, at(&place), length)?;
            if output.json {
                let data = skete_client::hex::show(&read);
                return output.json(&serde_json::json!({ "data": data }));
            }
            if raw {
                return print_bytes(&read);
            }
            print(&dump(place.offset, &read))
        }
        DeviceCommand::Write { place, data } => {
            let data = match data {
                Some(Bytes(data)) => data,
                None => stdin()?,
            };
            client.device_write(&place.pci, at(&place), &data)?;
            output.done(&format!(
                "{}: {} written",
                place.pci,
                size::show(data.len() as u64)
            ))
        }
        DeviceCommand::Touches { pci } => touches(output, &client.device_get(&pci)?),
    }
}

fn at(place: &At) -> Place {
    Place {
        bar: place.bar,
        offset: place.offset,
    }
}

fn stdin() -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    std::io::stdin()
        .read_to_end(&mut data)
        .map_err(|why| Error::File {
            path: "standard input".into(),
            why: why.to_string(),
        })?;
    Ok(data)
}

fn attach(client: &Client, output: &Output, args: AttachArgs) -> Result<(), Error> {
    let vm = args.vm.clone();
    let device = args.spec();
    let pci = device.pci.clone();
    let changed = client.vm_change(&vm, |spec| {
        // Again, or as something else: what is said last holds.
        spec.devices.retain(|other| other.pci != pci);
        spec.devices.push(device);
        Ok(())
    })?;
    if output.json {
        return output.json(&changed);
    }
    output.done(&format!("{vm}: has {pci} from its next start on"))
}

fn detach(client: &Client, output: &Output, vm: &str, pci: &str) -> Result<(), Error> {
    let changed = client.vm_change(vm, |spec| {
        let before = spec.devices.len();
        spec.devices.retain(|other| other.pci != pci);
        if spec.devices.len() == before {
            return Err(Error::Usage(format!("VM '{vm}' is not given device {pci}")));
        }
        Ok(())
    })?;
    if output.json {
        return output.json(&changed);
    }
    output.done(&format!("{vm}: has {pci} no longer"))
}

fn profile(profile: DeviceProfile) -> &'static str {
    match profile {
        DeviceProfile::Generic => "generic",
        DeviceProfile::Nvme => "nvme",
        DeviceProfile::NvgraceGpu => "nvgrace-gpu",
    }
}

/// A device of a VM's definition, in a line.
pub(crate) fn spec(device: &DeviceSpec) -> String {
    let mut line = format!("{} ({})", device.pci, profile(device.profile));
    if let Some(memory) = &device.memory {
        line.push_str(&format!(", memory in {memory}"));
    }
    if device.unsafe_dma {
        line.push_str(", DMA not bounded");
    }
    if device.declared_dma {
        line.push_str(", DMA to declared pages");
    }
    line
}

fn state(device: &Device) -> String {
    match (device.state, &device.vm) {
        (DeviceState::Free, _) => "free".into(),
        (DeviceState::Assigned, None) => "assigned".into(),
        (DeviceState::Assigned, Some(vm)) => format!("assigned to {vm}"),
        (DeviceState::Companion, None) => "memory of another".into(),
        (DeviceState::Companion, Some(vm)) => format!("memory of a device of {vm}"),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Error> {
    let devices = client.device_list()?;
    if output.json {
        return output.json(&devices);
    }
    if output.quiet {
        return devices.iter().try_for_each(|device| print(&device.pci));
    }
    let rows = devices.iter().map(|device| {
        vec![
            device.pci.clone(),
            device.id.clone(),
            device.class.clone(),
            state(device),
            size::show(
                device
                    .bar_bytes
                    .iter()
                    .copied()
                    .fold(0, u64::saturating_add),
            ),
            size::show(device.mapped_bytes),
        ]
    });
    print(&table(
        &["PCI", "ID", "CLASS", "STATE", "MEMORY", "MAPPED"],
        rows,
    ))
}

fn show(output: &Output, device: &Device) -> Result<(), Error> {
    if output.json {
        return output.json(device);
    }
    let bars = device.bar_bytes.iter().enumerate();
    let bars: Vec<String> = bars
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(n, bytes)| format!("{n}: {}", size::show(*bytes)))
        .collect();
    let sizes = device.bar_sizes.iter().enumerate();
    let sizes = sizes.filter(|(_, sizes)| !sizes.is_empty());
    let sizes = sizes.map(|(n, sizes)| {
        let sizes: Vec<String> = sizes.iter().map(|bytes| size::show(*bytes)).collect();
        format!("bar {n} may be {}", sizes.join(", "))
    });
    let sizes: Vec<String> = sizes.collect();
    let reset = if device.resettable { "yes" } else { "no" };
    let mut lines = vec![
        format!("pci          {}", device.pci),
        format!("id           {}, class {}", device.id, device.class),
        format!("bars         {}", bars.join(", ")),
        format!("own reset    {reset}"),
    ];
    lines.extend(sizes);
    lines.extend([format!("state        {}", state(device))]);
    if device.state == DeviceState::Assigned {
        lines.extend(assigned(device));
    }
    print(&lines.join("\n"))
}

/// What there is to know of a device that a VM has.
fn assigned(device: &Device) -> Vec<String> {
    let memory = match (device.memory_on, device.reset_pending) {
        (false, _) => "off",
        (true, false) => "on",
        (true, true) => "on, not found ready since its reset",
    };
    let dma = match (device.dma, device.dma_bounded) {
        (false, _) => "none".into(),
        (true, true) => {
            let what = if device.dma_declared {
                "that its guest declared"
            } else {
                "of its VM's RAM"
            };
            let bytes = size::show(device.dma_bytes);
            format!("bounded by the SMMU: reaches {bytes} {what}")
        }
        (true, false) => "NOT bounded: it reaches all of the machine's memory".into(),
    };
    let faults = &device.faults;
    let mut lines = vec![
        format!("in guest     00:{:02x}.0", device.guest_slot),
        format!("profile      {}", profile(device.profile)),
        format!(
            "memory       {memory}, {} mapped",
            size::show(device.mapped_bytes)
        ),
        format!("dma          {dma}"),
        format!(
            "resets       {}, all mappings taken away {} times",
            device.generation.saturating_sub(1),
            device.zaps
        ),
    ];
    if device.dma_faults > 0 {
        lines.push(format!(
            "dma blocked  {}, the last at {:#x}",
            device.dma_faults, device.dma_fault_at
        ));
    }
    lines.push("faults".into());
    let counts = [
        ("4 KiB leaf mapped", faults.mapped_4k),
        ("64 KiB group mapped", faults.mapped_64k),
        ("2 MiB leaf mapped", faults.mapped_2m),
        ("1 GiB leaf mapped", faults.mapped_1g),
        ("leaf there already", faults.present),
        ("took a smaller leaf", faults.fell_back),
        ("made for the guest", faults.emulated),
        ("waited", faults.parked),
        ("refused", faults.refused),
        ("not ready in time", faults.timeouts),
    ];
    let rows: Vec<_> = counts
        .iter()
        .map(|(what, count)| (format!("  {what:<20}"), *count))
        .collect();
    lines.extend(histogram(&rows));
    lines
}

/// Lines with a bar each, whose length tells the count.
fn histogram(rows: &[(String, u64)]) -> Vec<String> {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let line = |(what, count): &(String, u64)| {
        // Never nothing for what is something.
        let length = count
            .saturating_mul(BAR)
            .checked_div(most)
            .map_or(0, |length| length.max(u64::from(*count > 0)));
        let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
        format!("{what}{count:>8}  {bar}").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn touches(output: &Output, device: &Device) -> Result<(), Error> {
    let cell = device.touch_bytes;
    let starts = (0_u64..).map(|n| n.saturating_mul(cell));
    let touched = starts.zip(&device.touches).filter(|(_, count)| **count > 0);
    if output.json {
        let cells: Vec<_> = touched
            .map(|(offset, count)| serde_json::json!({ "offset": offset, "faults": count }))
            .collect();
        return output.json(&serde_json::json!({ "cell_bytes": cell, "touched": cells }));
    }
    let rows: Vec<_> = touched
        .map(|(offset, count)| (format!("{offset:#014x}"), u64::from(*count)))
        .collect();
    if rows.is_empty() {
        return output.done(&format!("{}: nothing was touched", device.pci));
    }
    print(&format!(
        "faults by offset in the largest BAR, {} a line",
        size::show(cell)
    ))?;
    print(&histogram(&rows).join("\n"))
}

/// Sixteen bytes a line, with their offset.
fn dump(offset: u64, bytes: &[u8]) -> String {
    let starts = (0_u64..).map(|n| offset.saturating_add(n.saturating_mul(16)));
    let lines = starts.zip(bytes.chunks(16)).map(|(at, bytes)| {
        let digits: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
        let text: String = bytes
            .iter()
            .map(|byte| match byte {
                0x20..=0x7e => char::from(*byte),
                _ => '.',
            })
            .collect();
        format!("{at:08x} {digits:<48}  {text}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{dump, histogram};

    #[test]
    fn a_bar_is_as_long_as_its_count_is_large() {
        let rows = [
            ("a".to_owned(), 0),
            ("b".to_owned(), 1),
            ("c".to_owned(), 400),
        ];
        let lines = histogram(&rows);
        assert_eq!(lines[0], "a       0");
        assert_eq!(lines[1], "b       1  #");
        assert_eq!(lines[2].matches('#').count(), 40);
        assert_eq!(histogram(&[("a".to_owned(), 0)]), ["a       0"]);
    }

    #[test]
    fn a_dump_shows_offsets_digits_and_text() {
        let text = dump(0x1000, b"ABCDEFGHIJKLMNOP\x00");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "00001000  41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 50  ABCDEFGHIJKLMNOP"
        );
        assert!(lines[1].starts_with("00001010  00 ") && lines[1].ends_with("  ."));
    }
}
