//! Names for the addresses in crash reports: what core and root print on the serial line
//! when they die is followed by function, file and line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use addr2line::Loader;
use anyhow::Result;

use crate::build;

/// Addresses of core's image (`boot/entry/link.ld`) and of root's (`guest_abi::root_boot`).
const CORE: std::ops::Range<u64> = 0x6000_0000_0000..0x6000_4000_0000;
const ROOT: std::ops::Range<u64> = 0x4020_0000..0x4300_0000;

/// The debug information of core and root, where they were built.
pub(crate) struct Symbols {
    core: Option<Loader>,
    root: Option<Loader>,
}

impl Symbols {
    /// Opens the ELF files of the last build. Without one, its addresses stay numbers.
    pub(crate) fn open() -> Self {
        let load = |path: &Path| Loader::new(path).ok();
        Self {
            core: load(&build::core_elf()),
            root: load(&build::root_elf()),
        }
    }

    /// Copies a serial line to `output`, line by line, with names added.
    pub(crate) fn filter(&self, serial: impl Read, mut output: impl Write) -> Result<()> {
        let mut serial = BufReader::new(serial);
        let mut line = Vec::new();
        while serial.read_until(b'\n', &mut line)? != 0 {
            output.write_all(&line)?;
            for name in self.names(&String::from_utf8_lossy(&line)) {
                writeln!(output, "      {name}\r")?;
            }
            output.flush()?;
            line.clear();
        }
        Ok(())
    }

    /// Returns what the addresses in a line of a crash report are; nothing for other lines.
    fn names(&self, line: &str) -> Vec<String> {
        let is_report = line.contains("pc 0x") || line.trim_start().starts_with("0x");
        if !is_report {
            return Vec::new();
        }
        line.split(|c: char| !c.is_ascii_alphanumeric())
            .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .filter_map(|address| self.name(address))
            .collect()
    }

    fn name(&self, address: u64) -> Option<String> {
        let loader = if CORE.contains(&address) {
            self.core.as_ref()?
        } else if ROOT.contains(&address) {
            self.root.as_ref()?
        } else {
            return None;
        };
        // A return address is behind the call.
        let call = address.saturating_sub(4);
        let mut frames = loader.find_frames(call).ok()?;
        let mut name = None;
        // Innermost first; the last one is the function that was not inlined.
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function?;
            let function = function.demangle().ok()?.into_owned();
            let place = frame.location.map_or_else(String::new, |at| {
                format!(" at {}:{}", at.file.unwrap_or("?"), at.line.unwrap_or(0))
            });
            name.get_or_insert(format!("{address:#x} is in {function}{place}"));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_report_pass_unchanged() {
        let symbols = Symbols {
            core: None,
            root: None,
        };
        let mut out = Vec::new();
        let serial = b"skete: core 0 is up\r\n0x40201234\r\n\xff\n";
        symbols.filter(&serial[..], &mut out).expect("in memory");
        assert_eq!(out, serial);
    }

    #[test]
    fn an_address_of_this_program_has_a_name() {
        let me = std::env::current_exe().expect("tests run from a file");
        let loader = Loader::new(&me);
        // Without debug information there is nothing to find, and nothing breaks.
        let symbols = Symbols {
            core: loader.ok(),
            root: None,
        };
        assert!(symbols.name(0x10).is_none());
        assert!(symbols.names("  called from pc 0x600000000010").len() <= 1);
    }
}
