//! The serial line: everything that was printed, kept and searchable with a deadline.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Debug, Default)]
struct Printed {
    bytes: Vec<u8>,
    closed: bool,
}

/// What a machine printed so far.
#[derive(Clone, Debug, Default)]
pub struct Serial(Arc<(Mutex<Printed>, Condvar)>);

impl Serial {
    /// Collects from `source` until it ends, and copies to `log`.
    pub fn collect(mut source: impl Read + Send + 'static, mut log: File) -> Self {
        let serial = Self::default();
        let ours = serial.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let bytes = buffer.get(..count).unwrap_or(&[]);
                let (printed, more) = &*ours.0;
                let mut printed = printed.lock().expect("no holder of this lock panics");
                printed.bytes.extend_from_slice(bytes);
                printed.closed = bytes.is_empty();
                more.notify_all();
                if printed.closed || log.write_all(bytes).is_err() {
                    return;
                }
            }
        });
        serial
    }

    /// Everything printed so far, bytes that are not UTF-8 replaced.
    pub fn text(&self) -> String {
        let printed = self.0.0.lock().expect("no holder of this lock panics");
        String::from_utf8_lossy(&printed.bytes).into_owned()
    }

    /// Everything printed, once the machine that prints has ended and its last byte is here.
    ///
    /// Fails when it has not ended within `patience`.
    pub fn whole(&self, patience: Duration) -> Result<String> {
        let (printed, more) = &*self.0;
        let printed = printed.lock().expect("no holder of this lock panics");
        let (printed, _) = more
            .wait_timeout_while(printed, patience, |printed| !printed.closed)
            .expect("no holder of this lock panics");
        if !printed.closed {
            bail!(
                "the machine did not end in time; its last lines were\n{}",
                last_lines(&printed.bytes, 30)
            );
        }
        Ok(String::from_utf8_lossy(&printed.bytes).into_owned())
    }

    /// Number of bytes printed so far: a position for [`Self::wait_for`].
    pub fn position(&self) -> usize {
        let printed = self.0.0.lock().expect("no holder of this lock panics");
        printed.bytes.len()
    }

    /// Waits until `wanted` is printed at or after `from`; returns the position behind it.
    ///
    /// Fails when `patience` ends or the machine does, with the last that was printed.
    pub fn wait_for(&self, wanted: &str, from: usize, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        let (printed, more) = &*self.0;
        let mut printed = printed.lock().expect("no holder of this lock panics");
        loop {
            let since = printed.bytes.get(from..).unwrap_or(&[]);
            let at = since
                .windows(wanted.len())
                .position(|window| window == wanted.as_bytes());
            if let Some(at) = at {
                return Ok(from + at + wanted.len());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.closed || left.is_zero() {
                let why = if printed.closed {
                    "the machine ended"
                } else {
                    "it was not printed in time"
                };
                bail!(
                    "waiting for {wanted:?}: {why}; the last lines were\n{}",
                    last_lines(&printed.bytes, 30)
                );
            }
            printed = more
                .wait_timeout(printed, left)
                .expect("no holder of this lock panics")
                .0;
        }
    }
}

/// The last `count` lines of `bytes`.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or(&[]).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_finds_what_came_later_and_reports_what_never_comes() {
        let log = File::create("/dev/null").expect("there is one");
        let serial = Serial::collect(&b"one two two"[..], log);
        let patience = Duration::from_secs(5);
        let first = serial.wait_for("two", 0, patience).expect("is there");
        assert_eq!(first, 7);
        assert_eq!(serial.wait_for("two", first, patience).expect("twice"), 11);
        assert_eq!(serial.whole(patience).expect("has ended"), "one two two");
        let error = serial
            .wait_for("three", 0, patience)
            .expect_err("not there");
        assert!(error.to_string().contains("one two two"));
    }
}
