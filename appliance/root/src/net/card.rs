//! The card as smoltcp wants it: tokens that lend one frame each.

use core::cell::RefCell;
use core::fmt;

use guest_abi::root_boot::RootDevice;
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_host::{Buffer, Fault, Nic, Received};

use crate::devices;
use crate::dma::Dma;

/// Largest Ethernet frame: header and 1500 bytes.
const FRAME_BYTES: usize = 1514;

type Driver = Nic<Dma, MmioTransport<'static>>;

/// The machine's network card.
pub(crate) struct Card {
    /// Both tokens of a pair need it, one after the other.
    nic: RefCell<Driver>,
    reported: Option<Fault>,
    /// TCP port whose new clients are let in one by one.
    port: u16,
    /// Clients that may still come in before [`Card::admit`] is called again.
    admitted: usize,
    /// The frame with which one client too many knocked.
    waiting: Option<Received>,
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card").finish_non_exhaustive()
    }
}

impl Card {
    /// Starts the card behind a transport of root's.
    ///
    /// Clients of `port` come in as [`Self::admit`] says: smoltcp would refuse those for
    /// whom no socket listens at the very moment, though one will in the next.
    pub(crate) fn start(device: &RootDevice, port: u16) -> Result<Self, virtio_drivers::Error> {
        let transport = devices::transport(device).ok_or(virtio_drivers::Error::IoError)?;
        Ok(Self {
            nic: RefCell::new(Nic::new(transport)?),
            reported: None,
            port,
            admitted: 0,
            waiting: None,
        })
    }

    /// Returns the card's Ethernet address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.nic.borrow().mac()
    }

    /// Lets `clients` more clients in. Returns true if one is waiting and can come in now;
    /// if none can, it is sent away without an answer and will knock again.
    pub(crate) fn admit(&mut self, clients: usize) -> bool {
        self.admitted = clients;
        if clients == 0
            && let Some(frame) = self.waiting.take()
        {
            self.nic.get_mut().recycle(frame);
        }
        self.waiting.is_some()
    }

    /// Takes the next frame that may come in.
    fn next(&mut self) -> Option<Received> {
        let mut frame = match self.waiting.take() {
            Some(frame) => frame,
            None => self.nic.get_mut().receive()?,
        };
        if opens_connection(frame.frame(), self.port) {
            let Some(left) = self.admitted.checked_sub(1) else {
                self.waiting = Some(frame);
                return None;
            };
            self.admitted = left;
        }
        Some(frame)
    }

    /// Has the card interrupt when it can send again, if it cannot now. Reports a fault once.
    pub(crate) fn want_room(&mut self) {
        let nic = self.nic.get_mut();
        nic.want_room();
        let fault = nic.fault();
        if fault != self.reported {
            self.reported = fault;
            if let Some(fault) = fault {
                hermit::println!("skete: the network card {fault}; it is not used any more");
            }
        }
    }
}

impl phy::Device for Card {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        // A frame is only taken in when its answer could leave.
        let buffer = self.nic.get_mut().take_buffer()?;
        let Some(received) = self.next() else {
            self.nic.get_mut().keep(buffer);
            return None;
        };
        let nic = &self.nic;
        Some((
            RxToken { nic, received },
            TxToken {
                nic,
                buffer: Some(buffer),
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let buffer = self.nic.get_mut().take_buffer()?;
        Some(TxToken {
            nic: &self.nic,
            buffer: Some(buffer),
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        capabilities
    }
}

/// Returns whether a frame asks for a new TCP connection to `port`.
fn opens_connection(frame: &[u8], port: u16) -> bool {
    let wanted = || {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if ip.next_header() != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        Some(tcp.syn() && !tcp.ack() && tcp.dst_port() == port)
    };
    wanted().unwrap_or(false)
}

/// A frame that has arrived.
#[derive(Debug)]
pub(crate) struct RxToken<'a> {
    nic: &'a RefCell<Driver>,
    received: Received,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(mut self, f: F) -> R {
        let result = f(self.received.frame());
        self.nic.borrow_mut().recycle(self.received);
        result
    }
}

/// Room for one frame to send.
#[derive(Debug)]
pub(crate) struct TxToken<'a> {
    nic: &'a RefCell<Driver>,
    buffer: Option<Buffer>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let mut buffer = self.buffer.take().expect("a token is consumed once");
        let mut nic = self.nic.borrow_mut();
        let frame = nic
            .frame_of(&mut buffer, len)
            .expect("smoltcp keeps to the MTU it was told");
        let result = f(frame);
        nic.send(buffer, len);
        result
    }
}

impl Drop for TxToken<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.nic.borrow_mut().keep(buffer);
        }
    }
}
