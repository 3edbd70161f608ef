//! A network card: virtio-net with one queue pair and no offloads.

#![expect(unsafe_code, reason = "buffers lent to a device")]

use core::fmt;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::{BufferDirection, Error, Hal};

/// Buffers in flight in each direction, and entries of each ring.
pub const QUEUE: usize = 256;
/// Bytes of one buffer: a header and the largest Ethernet frame, rounded up.
pub const BUFFER_BYTES: usize = 2048;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// `struct virtio_net_hdr` of a modern device (virtio 1.2, 5.1.6), all zero: no offloads.
const MODERN_HEADER: usize = 12;
/// The same without `num_buffers`, before virtio 1.0.
const LEGACY_HEADER: usize = 10;
/// A page of the DMA allocator.
const PAGE: usize = 4096;

bitflags::bitflags! {
    /// The features this driver understands. EVENT_IDX is not among them on purpose.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        /// The device has an address of its own.
        const MAC = 1 << 5;
        const VERSION_1 = 1 << 32;
    }
}

/// Memory that can be lent to the device.
pub type Buffer = &'static mut [u8; BUFFER_BYTES];

/// What a device did that no device may do. It is not used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It returned a buffer that it was not lent.
    Token {
        /// What it called the buffer.
        token: u16,
    },
    /// It says that it wrote more than the buffer holds, or less than a header.
    Length {
        /// Bytes it says it wrote.
        bytes: u32,
    },
    /// The queue refused what it must accept.
    Queue,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { token } => write!(f, "returned buffer {token}, which it does not have"),
            Self::Length { bytes } => write!(f, "claims to have written {bytes} bytes"),
            Self::Queue => f.write_str("broke the protocol of its queue"),
        }
    }
}

impl core::error::Error for Fault {}

/// A received frame, still in the buffer it came in. Give it back with [`Nic::recycle`].
#[derive(Debug)]
pub struct Received {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Received {
    /// Returns the frame, without the device's header.
    pub fn frame(&mut self) -> &mut [u8] {
        self.buffer
            .get_mut(self.start..self.end)
            .unwrap_or_default()
    }
}

/// A virtio-net device.
pub struct Nic<H: Hal, T: Transport> {
    transport: T,
    receive: VirtQueue<H, QUEUE>,
    transmit: VirtQueue<H, QUEUE>,
    /// Buffers the device has, by token.
    receiving: [Option<Buffer>; QUEUE],
    sending: [Option<Buffer>; QUEUE],
    /// Buffers to send from; the first `idle_count` are there.
    idle: [Option<Buffer>; QUEUE],
    idle_count: usize,
    header: usize,
    mac: [u8; 6],
    fault: Option<Fault>,
}

impl<H: Hal, T: Transport> fmt::Debug for Nic<H, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic")
            .field("mac", &self.mac)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl<H: Hal, T: Transport> Nic<H, T> {
    /// Starts the device, and lends it buffers for [`QUEUE`] frames.
    ///
    /// Needs 1 MiB of DMA memory, which is never given back: a device that has once been
    /// told of memory may write there.
    ///
    /// # Errors
    /// Those of the transport and the queues, and [`Error::DmaError`] without memory.
    pub fn new(mut transport: T) -> Result<Self, Error> {
        let features: Features = transport.begin_init(Features::all());
        let mut mac = [0; 6];
        for (offset, byte) in mac.iter_mut().enumerate() {
            *byte = transport.read_config_space::<u8>(offset)?;
        }
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let mut transmit = VirtQueue::new(&mut transport, TRANSMIT, false, false)?;
        // Nobody waits for a frame to have left; see `want_room`.
        transmit.set_dev_notify(false);
        transport.finish_init();
        let modern = features.contains(Features::VERSION_1);
        let mut nic = Self {
            transport,
            receive,
            transmit,
            receiving: [const { None }; QUEUE],
            sending: [const { None }; QUEUE],
            idle: [const { None }; QUEUE],
            idle_count: 0,
            header: if modern { MODERN_HEADER } else { LEGACY_HEADER },
            mac,
            fault: None,
        };
        for buffer in buffers::<H>()? {
            nic.lend(buffer);
        }
        nic.transport.notify(RECEIVE);
        for buffer in buffers::<H>()? {
            nic.keep(buffer);
        }
        match nic.fault {
            None => Ok(nic),
            Some(_) => Err(Error::IoError),
        }
    }

    /// Returns the card's Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Returns what the device did, if it broke the rules: nothing is sent or received any
    /// more.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Takes the next frame that has arrived.
    pub fn receive(&mut self) -> Option<Received> {
        if self.fault.is_some() {
            return None;
        }
        let token = self.receive.peek_used()?;
        let lent = self.receiving.get_mut(usize::from(token));
        let Some(buffer) = lent.and_then(Option::take) else {
            self.fault = Some(Fault::Token { token });
            return None;
        };
        // SAFETY: `receiving[token]` is the very buffer that `lend` added under this token.
        let result = unsafe {
            self.receive
                .pop_used(token, &[], &mut [buffer.as_mut_slice()])
        };
        let Ok(bytes) = result else {
            self.fault = Some(Fault::Queue);
            return None;
        };
        let end = usize::try_from(bytes).unwrap_or(usize::MAX);
        if end < self.header || end > BUFFER_BYTES {
            self.fault = Some(Fault::Length { bytes });
            return None;
        }
        Some(Received {
            buffer,
            start: self.header,
            end,
        })
    }

    /// Lends the buffer of a frame to the device again.
    pub fn recycle(&mut self, received: Received) {
        self.lend(received.buffer);
        if self.fault.is_none() && self.receive.should_notify() {
            self.transport.notify(RECEIVE);
        }
    }

    /// Takes a buffer to send from, or `None` while the device has them all.
    ///
    /// The frame goes behind the header: see [`Self::frame_of`].
    pub fn take_buffer(&mut self) -> Option<Buffer> {
        if self.idle_count == 0 {
            self.reclaim();
        }
        self.idle_count = self.idle_count.checked_sub(1)?;
        self.idle.get_mut(self.idle_count)?.take()
    }

    /// Gives a buffer back unsent.
    pub fn keep(&mut self, buffer: Buffer) {
        if let Some(place) = self.idle.get_mut(self.idle_count) {
            *place = Some(buffer);
            self.idle_count = self.idle_count.saturating_add(1);
        }
    }

    /// Returns where a frame of `bytes` bytes lies in a buffer, or `None` if it does not fit.
    pub fn frame_of<'a>(&self, buffer: &'a mut Buffer, bytes: usize) -> Option<&'a mut [u8]> {
        buffer.get_mut(self.header..)?.get_mut(..bytes)
    }

    /// Sends the first `bytes` bytes of the frame in `buffer`, without waiting.
    pub fn send(&mut self, buffer: Buffer, bytes: usize) {
        if let Some(header) = buffer.get_mut(..self.header) {
            header.fill(0);
        }
        let end = self.header.saturating_add(bytes).min(BUFFER_BYTES);
        let Some(lent) = buffer.get(..end) else {
            return;
        };
        // SAFETY: the buffer stays in `sending` until the device has returned it.
        let result = unsafe { self.transmit.add(&[lent], &mut []) };
        let place = result
            .ok()
            .and_then(|token| self.sending.get_mut(usize::from(token)));
        match place {
            Some(place) => *place = Some(buffer),
            None => self.fault = Some(Fault::Queue),
        }
        if self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
    }

    /// Has the device interrupt when it has sent something, if no buffer is left to send
    /// from. To be called before waiting for the card's interrupt.
    pub fn want_room(&mut self) {
        self.transmit.set_dev_notify(self.idle_count == 0);
        if self.idle_count == 0 {
            // What was sent before the line above will not interrupt.
            self.reclaim();
        }
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        while self.fault.is_none() {
            let Some(token) = self.transmit.peek_used() else {
                return;
            };
            let lent = self.sending.get_mut(usize::from(token));
            let Some(buffer) = lent.and_then(Option::take) else {
                self.fault = Some(Fault::Token { token });
                return;
            };
            // SAFETY: `sending[token]` is the buffer that `send` added under this token. Only
            // its address counts, and that is the same for any length.
            let result = unsafe { self.transmit.pop_used(token, &[buffer.as_slice()], &mut []) };
            match result {
                Ok(_) => self.keep(buffer),
                Err(_) => self.fault = Some(Fault::Queue),
            }
        }
    }

    fn lend(&mut self, buffer: Buffer) {
        // SAFETY: the buffer stays in `receiving` until the device has returned it.
        let result = unsafe { self.receive.add(&[], &mut [buffer.as_mut_slice()]) };
        let place = result
            .ok()
            .and_then(|token| self.receiving.get_mut(usize::from(token)));
        match place {
            Some(place) => *place = Some(buffer),
            None => self.fault = Some(Fault::Queue),
        }
    }
}

/// Allocates [`QUEUE`] buffers.
fn buffers<H: Hal>() -> Result<impl Iterator<Item = Buffer>, Error> {
    const PAGES: usize = QUEUE * BUFFER_BYTES / PAGE;
    let (pa, memory) = H::dma_alloc(PAGES, BufferDirection::Both);
    if pa == 0 {
        return Err(Error::DmaError);
    }
    let first = memory.cast::<[u8; BUFFER_BYTES]>();
    // SAFETY: `dma_alloc` returned PAGES zeroed pages that alias nothing, and nobody ever
    // gives them back.
    let all = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), QUEUE) };
    Ok(all.iter_mut())
}
