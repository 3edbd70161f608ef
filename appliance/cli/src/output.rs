//! How results are printed.

use std::io::{self, Write as _};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use skete_client::Error;

/// How the user wants results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// As JSON.
    pub(crate) json: bool,
    /// As little as possible.
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints a value as JSON.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Error> {
        let text =
            serde_json::to_string_pretty(value).map_err(|why| Error::Protocol(why.to_string()))?;
        print(&text)
    }

    /// Says that something was done; nothing if the user wants it quiet.
    pub(crate) fn done(self, text: &str) -> Result<(), Error> {
        if self.quiet || self.json {
            Ok(())
        } else {
            print(text)
        }
    }
}

/// Prints a line to standard output.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    print_bytes(text.as_bytes())?;
    print_bytes(b"\n")
}

/// Prints bytes to standard output. That nobody reads on is the end, and no failure.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(why) => Err(Error::File {
            path: "standard output".into(),
            why: why.to_string(),
        }),
        Ok(()) => Ok(()),
    }
}

/// A table with a head, for people; columns are separated by spaces.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text.pop();
    text
}
