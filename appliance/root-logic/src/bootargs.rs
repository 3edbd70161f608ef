//! What the operator said on the machine's command line.

use core::net::Ipv4Addr;

/// Port of the control port unless `port=` says otherwise.
pub const DEFAULT_PORT: u16 = 8080;

/// A fixed address of the control port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: Ipv4Addr,
    /// Bits of the network's part, 0 to 32.
    pub prefix: u8,
    /// Where to send what is not for the network.
    pub gateway: Option<Ipv4Addr>,
}

/// The boot arguments that root knows. Others are someone else's and are left alone; of
/// one given twice, the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootArgs<'a> {
    /// `ip=ADDRESS/PREFIX[,GATEWAY]`; without it, or with `ip=dhcp`, the address is leased.
    pub address: Option<Address>,
    /// `port=`: where the control port listens.
    pub port: u16,
    /// `token=`: the operator's token; without it one is made.
    pub token: Option<&'a str>,
    /// `drills`: the control port may be told to make root fail.
    pub drills: bool,
}

impl<'a> BootArgs<'a> {
    /// Reads the arguments, and calls `complain` with each that cannot be understood. What
    /// it is called with never holds a token.
    pub fn parse(line: &'a str, mut complain: impl FnMut(&str)) -> Self {
        let mut args = Self {
            address: None,
            port: DEFAULT_PORT,
            token: None,
            drills: false,
        };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("ip", "dhcp")) => args.address = None,
                Some(("ip", value)) => match address(value) {
                    Some(address) => args.address = Some(address),
                    None => complain(word),
                },
                Some(("port", value)) => match value.parse() {
                    Ok(port) if port != 0 => args.port = port,
                    _ => complain(word),
                },
                Some(("token", "")) => complain(word),
                Some(("token", value)) => args.token = Some(value),
                None if word == "drills" => args.drills = true,
                _ => {}
            }
        }
        args
    }
}

fn address(value: &str) -> Option<Address> {
    let (network, gateway) = match value.split_once(',') {
        Some((network, gateway)) => (network, Some(gateway.parse().ok()?)),
        None => (value, None),
    };
    let (ip, prefix) = network.split_once('/')?;
    Some(Address {
        ip: ip.parse().ok()?,
        prefix: prefix.parse().ok().filter(|&bits| bits <= 32)?,
        gateway,
    })
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed"
)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (BootArgs<'_>, u32) {
        let mut complaints = 0;
        let args = BootArgs::parse(line, |_| complaints += 1);
        (args, complaints)
    }

    #[test]
    fn without_arguments_the_address_is_leased_and_the_token_made() {
        let (args, complaints) = parse("");
        let expected = BootArgs {
            address: None,
            port: 8080,
            token: None,
            drills: false,
        };
        assert_eq!((args, complaints), (expected, 0));
    }

    #[test]
    fn every_argument_is_understood_among_those_of_others() {
        let (args, complaints) =
            parse(" console=ttyAMA0  ip=10.0.2.15/24,10.0.2.2 quiet token=a=b drills port=443\n");
        let address = Address {
            ip: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
        };
        let expected = BootArgs {
            address: Some(address),
            port: 443,
            token: Some("a=b"),
            drills: true,
        };
        assert_eq!((args, complaints), (expected, 0));
    }

    #[test]
    fn a_gateway_may_be_missing() {
        let (args, complaints) = parse("ip=192.168.7.1/32");
        let gateway = args.address.map(|address| address.gateway);
        assert_eq!((gateway, complaints), (Some(None), 0));
    }

    #[test]
    fn what_cannot_be_understood_is_complained_about_and_changes_nothing() {
        for word in [
            "ip=10.0.2.15",
            "ip=10.0.2.15/33",
            "ip=10.0.2/24",
            "ip=10.0.2.15/24,",
            "ip=",
            "port=0",
            "port=65536",
            "port=",
            "token=",
        ] {
            let (args, complaints) = parse(word);
            assert_eq!((args, complaints), (parse("").0, 1), "{word}");
        }
    }

    #[test]
    fn of_an_argument_given_twice_the_last_counts() {
        let (args, _) = parse("port=1 ip=10.0.0.1/8 port=2 ip=dhcp");
        assert_eq!((args.port, args.address), (2, None));
    }
}
