//! What the operator said on the machine's command line.

use core::net::Ipv4Addr;

use smoltcp::wire::Ipv4Cidr;

/// Port of the control port unless `port=` says otherwise.
const PORT: u16 = 8080;

/// Boot arguments that root knows. Others belong to someone else and are left alone.
#[derive(Debug)]
pub(crate) struct BootArgs<'a> {
    /// `ip=ADDRESS/PREFIX[,GATEWAY]`; without it, DHCP.
    pub(crate) address: Option<(Ipv4Cidr, Option<Ipv4Addr>)>,
    /// `port=`: where the control port listens.
    pub(crate) port: u16,
    /// `token=`: the operator's token; without it one is made.
    pub(crate) token: Option<&'a str>,
}

impl<'a> BootArgs<'a> {
    /// Reads the arguments, and calls `complain` with each that cannot be understood.
    pub(crate) fn parse(line: &'a str, mut complain: impl FnMut(&str)) -> Self {
        let mut args = Self {
            address: None,
            port: PORT,
            token: None,
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
                Some(("token", value)) if !value.is_empty() => args.token = Some(value),
                Some(("token", _)) => complain(word),
                _ => {}
            }
        }
        args
    }
}

fn address(value: &str) -> Option<(Ipv4Cidr, Option<Ipv4Addr>)> {
    let (cidr, gateway) = match value.split_once(',') {
        Some((cidr, gateway)) => (cidr, Some(gateway.parse().ok()?)),
        None => (value, None),
    };
    let (ip, prefix) = cidr.split_once('/')?;
    let prefix: u8 = prefix.parse().ok().filter(|&bits| bits <= 32)?;
    Some((Ipv4Cidr::new(ip.parse().ok()?, prefix), gateway))
}
