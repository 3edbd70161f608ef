//! An appliance without a machine: the real control server on a TCP port, over the fake
//! backend. For trying clients without QEMU.
//!
//! `cargo run -p skete-control --example fake_appliance -- 127.0.0.1:8080 TOKEN`

mod serve;

use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let token = args.next().unwrap_or_else(|| "skete_demo".into());
    let listener = match TcpListener::bind(&address) {
        Ok(listener) => listener,
        Err(why) => {
            eprintln!("cannot listen on {address}: {why}");
            return ExitCode::FAILURE;
        }
    };
    println!("http://{address} {token}");
    match serve::serve(&listener, &token) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
