//! Which function: bus, device, function.

use core::fmt;
use core::str::FromStr;

/// The address of a function in segment 0: bus in 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(u16);

impl Address {
    /// Takes a requester ID.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// Returns the requester ID.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Its bus.
    pub const fn bus(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Its device, below 32.
    pub const fn device(self) -> u8 {
        self.0.to_le_bytes()[0] >> 3
    }

    /// Its function, below 8.
    pub const fn function(self) -> u8 {
        self.0.to_le_bytes()[0] & 7
    }

    /// Where its configuration space is in the ECAM of a host whose first bus is `bus_first`
    /// (PCIe 7.2.2). `None` if its bus comes before that.
    pub fn ecam_offset(self, bus_first: u8) -> Option<u64> {
        let first = u16::from(bus_first).checked_mul(256)?;
        Some(u64::from(self.0.checked_sub(first)?).wrapping_mul(4096))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "0000:{bus:02x}:{device:02x}.{function}")
    }
}

/// The text is no address of a function in segment 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    /// Reads `0000:bb:dd.f` or `bb:dd.f`, in hexadecimal.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let text = text.strip_prefix("0000:").unwrap_or(text);
        let [b1, b0, b':', d1, d0, b'.', f] = text.as_bytes() else {
            return Err(NoAddress);
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or(NoAddress);
        let bus = digit(b1)?.wrapping_mul(16).wrapping_add(digit(b0)?);
        let device = digit(d1)?.wrapping_mul(16).wrapping_add(digit(d0)?);
        let function = digit(f)?;
        if device > 31 || function > 7 {
            return Err(NoAddress);
        }
        let raw = bus << 8 | device << 3 | function;
        u16::try_from(raw).map(Self).map_err(|_| NoAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everyone_writes_it() {
        let address: Address = "0000:03:1f.7".parse().expect("legal");
        assert_eq!(address.raw(), 0x03ff);
        assert_eq!(
            (address.bus(), address.device(), address.function()),
            (3, 31, 7)
        );
        assert_eq!("03:1f.7".parse(), Ok(address));
        for wrong in [
            "",
            "0001:00:00.0",
            "00:20.0",
            "00:00.8",
            "0:0.0",
            "00:00.0 ",
            "00:0g.0",
            "+0:00.0",
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(NoAddress), "{wrong}");
        }
        for raw in 0..=u16::MAX {
            let address = Address::from_raw(raw);
            let mut text = Text([0; 16], 0);
            fmt::write(&mut text, format_args!("{address}")).expect("twelve bytes");
            let text = core::str::from_utf8(&text.0[..text.1]).expect("ASCII");
            assert_eq!(text.parse(), Ok(address));
        }
    }

    struct Text([u8; 16], usize);
    impl fmt::Write for Text {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let end = self.1.saturating_add(s.len());
            let room = self.0.get_mut(self.1..end).ok_or(fmt::Error)?;
            room.copy_from_slice(s.as_bytes());
            self.1 = end;
            Ok(())
        }
    }

    #[test]
    fn configuration_space_is_a_page_for_each_function() {
        let address = Address::from_raw(0x0208);
        assert_eq!(address.ecam_offset(0), Some(0x20_8000));
        assert_eq!(address.ecam_offset(2), Some(0x8000));
        assert_eq!(address.ecam_offset(3), None);
    }
}
