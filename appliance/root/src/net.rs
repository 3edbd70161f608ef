//! The network: one virtio-net card under smoltcp.

mod card;
mod listener;

use alloc::vec;

use root_logic::BootArgs;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

pub(crate) use card::Card;
pub(crate) use listener::{Listener, Slot};

use crate::clock;

/// Frames taken in before root looks after anything else.
const FRAMES_AT_ONCE: usize = 256;

/// The network interface and its sockets.
pub(crate) struct Net {
    card: Card,
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    dhcp: Option<smoltcp::iface::SocketHandle>,
}

impl Net {
    /// Brings the interface up, with a fixed address or by DHCP.
    pub(crate) fn new(mut card: Card, args: &BootArgs<'_>, random_seed: u64) -> Self {
        let mut config = Config::new(EthernetAddress(card.mac()).into());
        config.random_seed = random_seed;
        let mut interface = Interface::new(config, &mut card, now());
        let mut sockets = SocketSet::new(vec![]);
        let dhcp = match args.address {
            Some(address) => {
                let cidr = Ipv4Cidr::new(address.ip, address.prefix);
                set_address(&mut interface, Some(cidr), address.gateway);
                None
            }
            None => Some(sockets.add(dhcpv4::Socket::new())),
        };
        Self {
            card,
            interface,
            sockets,
            dhcp,
        }
    }

    /// Lets as many new clients in as there are sockets listening. Returns true if one has
    /// been waiting for that.
    pub(crate) fn admit(&mut self, listening: usize) -> bool {
        self.card.admit(listening)
    }

    /// Moves frames both ways. Returns true if there may be more to take in.
    pub(crate) fn poll(&mut self) -> bool {
        let now = now();
        let mut more = true;
        self.interface.poll_maintenance(now);
        for _ in 0..FRAMES_AT_ONCE {
            let result = self
                .interface
                .poll_ingress_single(now, &mut self.card, &mut self.sockets);
            if matches!(result, PollIngressSingleResult::None) {
                more = false;
                break;
            }
        }
        self.send();
        self.follow_lease();
        more
    }

    /// Sends what the sockets hold.
    pub(crate) fn send(&mut self) {
        let now = now();
        while matches!(
            self.interface
                .poll_egress(now, &mut self.card, &mut self.sockets),
            PollResult::SocketStateChanged
        ) {}
    }

    /// Returns when [`Self::poll`] wants to be called even if nothing arrives, in
    /// nanoseconds of [`clock::uptime_ns`]. To be asked before sleeping.
    pub(crate) fn deadline_ns(&mut self) -> Option<u64> {
        self.card.want_room();
        let at = self.interface.poll_at(now(), &self.sockets)?;
        u64::try_from(at.total_micros()).ok()?.checked_mul(1000)
    }

    /// Takes over what the DHCP server has said.
    fn follow_lease(&mut self) {
        let Some(handle) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                set_address(&mut self.interface, Some(lease.address), lease.router);
                hermit::println!("skete: address {} by DHCP", lease.address);
            }
            Some(dhcpv4::Event::Deconfigured) => set_address(&mut self.interface, None, None),
            None => {}
        }
    }
}

fn set_address(
    interface: &mut Interface,
    address: Option<Ipv4Cidr>,
    gateway: Option<core::net::Ipv4Addr>,
) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        if let Some(address) = address {
            addresses
                .push(IpCidr::Ipv4(address))
                .expect("there is room for one");
        }
    });
    let routes = interface.routes_mut();
    routes.remove_default_ipv4_route();
    if let Some(gateway) = gateway {
        let added = routes.add_default_ipv4_route(gateway);
        debug_assert!(added.is_ok(), "there is room for one route");
    }
}

fn now() -> Instant {
    let micros = clock::uptime_ns() / 1000;
    Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
