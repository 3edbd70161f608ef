//! The control port.

use rand_chacha::rand_core::RngCore;
use smoltcp::socket::tcp::Socket;
use virtio_drivers::transport::DeviceType;

use crate::bootargs::BootArgs;
use crate::net::{Card, Listener, Net};
use crate::{boot, clock, devices, entropy, wait};

pub(crate) fn run() -> ! {
    let boot = boot::root_boot();
    let len = usize::try_from(boot.bootargs_len).unwrap_or(0);
    let line = boot.bootargs.get(..len).unwrap_or_default();
    let line = core::str::from_utf8(line).unwrap_or_default();
    let args = BootArgs::parse(line, |word| {
        hermit::println!("root: boot argument `{word}` is not understood");
    });
    let mut rng = entropy::generator().expect("a source of entropy");
    let nic = devices::find(DeviceType::Network).expect("a network card");
    let card = Card::start(nic).expect("a card that starts");
    wait::attach_nic(nic);
    let mut net = Net::new(card, &args, rng.next_u64());
    let mut listener = Listener::<()>::new(args.port, &mut net.sockets);
    hermit::println!(
        "root: listening on {} after {} us",
        args.port,
        clock::uptime_ns() / 1000
    );
    let mut total = 0u64;
    loop {
        wait::take();
        let more = net.poll();
        for slot in &mut listener.slots {
            let s = net.sockets.get_mut::<Socket<'_>>(slot.handle);
            if s.can_recv() {
                let (n, get) = s
                    .recv(|d| (d.len(), (d.len(), d.starts_with(b"GET"))))
                    .unwrap_or((0, false));
                total += n as u64;
                if get || total > 30_000_000 {
                    if s.can_send() {
                        let _ = s.send_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n");
                        hermit::println!("total {total} at {} us", clock::uptime_ns() / 1000);
                        s.close();
                    }
                }
            } else if !s.may_recv() && s.may_send() && !s.is_listening() {
                s.close();
            }
        }
        listener.refill(&mut net.sockets);
        net.send();
        if more {
            continue;
        }
        let deadline = net.deadline_ns().map(clock::ticks_at);
        wait::sleep_until(deadline);
    }
}
