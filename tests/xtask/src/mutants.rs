//! `cargo xtask mutants`: would the tests notice a bug?
//!
//! cargo-mutants changes one expression or function at a time in a copy of the repository, and
//! runs the package's tests on each. A change that no test notices is printed as MISSED: a test
//! to write, or a change that makes no difference. `.cargo/mutants.toml` leaves out the kinds
//! that never make one.

use anyhow::Result;

use crate::shell::{command, output, run};

/// Seeds part `shard` ("K/N") of all bugs into `package`.
pub(crate) fn hunt(package: &str, shard: &str) -> Result<()> {
    if output(&mut command("cargo", &["mutants", "--version"])).is_err() {
        println!("installing cargo-mutants: some minutes");
        run(&mut command(
            "cargo",
            &["install", "--locked", "--quiet", "cargo-mutants"],
        ))?;
    }
    let mut line = command("cargo", &["mutants", "--package", package]);
    line.args(["--sharding", "round-robin", "--shard", shard]);
    line.args(["--output", "target/mutants", "--timeout", "300"]);
    if output(&mut command("cargo", &["nextest", "--version"])).is_ok() {
        line.args(["--test-tool", "nextest"]);
    }
    run(&mut line)
}
