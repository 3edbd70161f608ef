//! Running other programs.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Returns `program` run in the repository, ready for more arguments.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(qemu::paths::repository());
    command
}

/// Runs it; fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be run", name(command)))?;
    if status.success() {
        return Ok(());
    }
    bail!("{} failed ({status})", words(command))
}

/// Runs it and returns what it printed; fails, with what it said, unless it succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be run", name(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    bail!(
        "{} failed ({}):\n{}",
        words(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// Runs cargo, and passes on what it says unless it has nothing to do.
pub(crate) fn cargo(command: &mut Command) -> Result<()> {
    cargo_showing(command, |line| !line.contains("Finished"))
}

/// Runs cargo, and passes on only what it is doing, but everything if it fails: for code that
/// is not ours and has warnings.
pub(crate) fn cargo_terse(command: &mut Command) -> Result<()> {
    cargo_showing(command, |line| {
        let verb = line.trim_start_matches(|letter: char| !letter.is_ascii_uppercase());
        line.starts_with(['\u{1b}', ' '])
            && ["Compiling", "Building", "Downloading", "Checking"]
                .iter()
                .any(|word| verb.starts_with(word))
    })
}

fn cargo_showing(command: &mut Command, show: impl Fn(&str) -> bool) -> Result<()> {
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo cannot be run")?;
    let stderr = child.stderr.take().context("asked for above")?;
    let mut kept = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if show(&line) {
            eprintln!("{line}");
        } else {
            kept.push(line);
        }
    }
    if child.wait()?.success() {
        return Ok(());
    }
    eprintln!("{}", kept.join("\n"));
    bail!("{} failed", words(command))
}

/// Returns whether a program of this name is on the path.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn words(command: &Command) -> String {
    command.get_args().fold(name(command), |line, word| {
        format!("{line} {}", word.to_string_lossy())
    })
}
