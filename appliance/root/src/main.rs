//! Root: the Hermit unikernel that carries Skete's control plane.
#![no_std]
#![no_main]

extern crate alloc;

mod backend;
mod boot;
mod calls;
mod cell;
mod clock;
mod devices;
mod dma;
mod entropy;
mod frames;
mod net;
mod physmap;
mod server;
mod wait;

use root_logic::BootArgs;
use virtio_drivers::transport::DeviceType;

/// What Hermit calls once it is up. Root has this one task, and it does not end.
#[expect(unsafe_code, reason = "Hermit calls it by name")]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8, _env: *const *const u8) {
    let Err(why) = start();
    hermit::println!("skete: no control port: {why}");
    loop {
        wait::sleep_until(u64::MAX);
        wait::take();
    }
}

/// Opens the control port and serves it for ever.
///
/// # Errors
/// Says what is missing. Guests run on without it.
fn start() -> Result<core::convert::Infallible, &'static str> {
    clock::init();
    // Before anything is granted to this root.
    let left = backend::left();
    let args = BootArgs::parse(boot::bootargs(), |word| {
        hermit::println!("skete: boot argument `{word}` is not understood");
    });
    let rng = match entropy::generator() {
        Some(rng) => rng,
        None if args.token.is_some() => {
            hermit::println!("skete: no source of entropy: connections are easier to forge");
            entropy::weak_generator()
        }
        None => return Err("no source of entropy to make a token from"),
    };
    let nic = devices::find(DeviceType::Network).ok_or("no network card")?;
    let card = net::Card::start(nic, args.port).map_err(|_| "the network card does not start")?;
    let doorbell = wait::attach_doorbell();
    wait::attach_nic(nic).ok_or("the network card has no interrupt")?;
    let machine = backend::Machine::new(rng.clone(), left).map_err(|_| "core grants no memory")?;
    let port = server::Port::open(card, &args, machine, rng, doorbell);
    hermit::println!(
        "skete: control port answering at {} ns on port {}",
        clock::uptime_ns(),
        args.port
    );
    port.serve()
}
