//! `skete`: manages virtual machines on a Skete appliance. Data goes to standard output,
//! all else to standard error.
#![expect(
    clippy::result_large_err,
    reason = "an error carries the server's whole explanation, and is seen once"
)]

mod args;
mod command;
mod output;
#[cfg(test)]
mod parsing;
mod progress;
mod spec_file;
mod terminal;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use skete_client::{Client, Error};

use args::{Cli, Command};
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(why) => {
            let asked = matches!(
                why.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            // A closed pipe is no reason to fail when help is printed.
            let _ = why.print();
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            if let Some(hint) = why.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(why.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "skete", &mut std::io::stdout());
        return Ok(());
    }
    let client = Client::new(&cli.global.url, &cli.global.token)
        .map_err(|why| Error::Usage(format!("--url or --token: {why}")))?;
    let output = Output {
        json: cli.global.json,
        quiet: cli.global.quiet,
    };
    match cli.command {
        Command::Host => command::host(&client, &output),
        Command::Image(image) => command::image::run(&client, &output, image),
        Command::Vm(vm) => command::vm::run(&client, &output, *vm),
        Command::Device(device) => command::device::run(&client, &output, device),
        Command::Ls => command::vm::list(&client, &output),
        Command::Console(args) => command::console::run(&client, &output, &args),
        Command::Events(args) => command::events(&client, &output, &args),
        Command::Shutdown { reset } => command::shutdown(&client, &output, reset),
        Command::RestartControl { no_wait } => command::restart_control(&client, &output, !no_wait),
        Command::Completions { .. } => Ok(()),
    }
}
