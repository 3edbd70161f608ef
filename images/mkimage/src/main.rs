//! `mkimage --core core.elf --root root.elf -o skete.img`

use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Builds the appliance image from core's and root's ELF files.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Core's ELF file
    #[arg(long)]
    core: PathBuf,
    /// Root's ELF file; without it, core starts and says that it has no root
    #[arg(long)]
    root: Option<PathBuf>,
    /// Where to write the image
    #[arg(short, long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("mkimage: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let core = read(&arguments.core)?;
    let root = arguments.root.as_deref().map(read).transpose()?;
    let image = mkimage::build(&core, root.as_deref()).map_err(|why| why.to_string())?;
    fs::write(&arguments.output, &image)
        .map_err(|why| format!("cannot write {}: {why}", arguments.output.display()))?;
    println!("{}: {} bytes", arguments.output.display(), image.len());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|why| format!("cannot read {}: {why}", path.display()))
}
