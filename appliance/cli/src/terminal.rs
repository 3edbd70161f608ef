//! The terminal in raw mode, for as long as a console is attached.

use std::io;

use crossterm::terminal;

/// Raw mode; dropping it gives the terminal back as it was.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal raw: keys come one by one and are not echoed.
    pub(crate) fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell if it fails.
        let _ = terminal::disable_raw_mode();
    }
}
