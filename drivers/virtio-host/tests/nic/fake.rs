//! A network card in memory, which does to its rings whatever a test says, honest or not.
//! Ring layouts are written down from virtio 1.2, 2.7, and share no code with the driver.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const MERGEABLE: u64 = 1 << 15;

/// Memory that is its own physical address.
#[derive(Debug)]
pub(crate) struct HostMemory;

// SAFETY: pages are zeroed, aligned, and leaked: they never alias and never go away.
unsafe impl Hal for HostMemory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        #[repr(align(4096))]
        #[derive(Clone, Copy)]
        struct Page(#[expect(dead_code, reason = "only its place counts")] [u8; 4096]);
        let memory = Box::leak(vec![Page([0; 4096]); pages].into_boxed_slice());
        let first = NonNull::from(memory).cast::<u8>();
        (first.addr().get() as u64, first)
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there is no PCI")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as u64
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// What the driver told the device of one queue.
#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Next entry of the available ring that the device will look at.
    seen: u16,
    notified: u32,
}

/// The device's side, shared by the test and the transport.
#[derive(Debug, Default)]
pub(crate) struct State {
    rings: [Ring; 2],
    accepted: u64,
    status: u32,
}

pub(crate) type Shared = Rc<RefCell<State>>;

#[derive(Debug)]
pub(crate) struct FakeTransport(pub(crate) Shared);

fn read<T: Copy>(at: u64) -> T {
    let at = std::ptr::with_exposed_provenance::<T>(at as usize);
    // SAFETY: an address from the rings, which lie in leaked memory.
    unsafe { at.read_volatile() }
}

fn write<T>(at: u64, value: T) {
    let at = std::ptr::with_exposed_provenance_mut::<T>(at as usize);
    // SAFETY: as above.
    unsafe { at.write_volatile(value) }
}

impl State {
    /// Takes the next buffer that the driver made available: token, address, bytes.
    pub(crate) fn take(&mut self, queue: usize) -> Option<(u16, u64, u32)> {
        let ring = &mut self.rings[queue];
        if ring.seen == read::<u16>(ring.available + 2) {
            return None;
        }
        let slot = u64::from(ring.seen % ring.size);
        ring.seen = ring.seen.wrapping_add(1);
        let token: u16 = read(ring.available + 4 + 2 * slot);
        let descriptor = ring.descriptors + 16 * u64::from(token);
        assert_eq!(
            read::<u16>(descriptor + 12) & 1,
            0,
            "one descriptor a buffer"
        );
        Some((token, read(descriptor), read(descriptor + 8)))
    }

    /// Says that a buffer was used.
    pub(crate) fn give_back(&mut self, queue: usize, token: u32, bytes: u32) {
        let ring = &self.rings[queue];
        let index: u16 = read(ring.used + 2);
        let entry = ring.used + 4 + 8 * u64::from(index % ring.size);
        write(entry, token);
        write(entry + 4, bytes);
        write(ring.used + 2, index.wrapping_add(1));
    }

    /// Delivers a frame as an honest device does.
    pub(crate) fn deliver(&mut self, frame: &[u8]) {
        let (token, address, room) = self.take(0).expect("a buffer to receive into");
        assert!(frame.len() + 12 <= room as usize);
        for (offset, byte) in [0; 12].iter().chain(frame).enumerate() {
            write(address + offset as u64, *byte);
        }
        self.give_back(0, token.into(), frame.len() as u32 + 12);
    }

    /// Sends one frame as an honest device does, and returns it.
    pub(crate) fn transmit(&mut self) -> Option<Vec<u8>> {
        let (token, address, bytes) = self.take(1)?;
        let packet: Vec<u8> = (0..u64::from(bytes)).map(|n| read(address + n)).collect();
        assert_eq!(packet[..12], [0; 12], "a header that asks for nothing");
        self.give_back(1, token.into(), 0);
        Some(packet[12..].to_vec())
    }

    pub(crate) fn notified(&self, queue: usize) -> u32 {
        self.rings[queue].notified
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        VERSION_1 | EVENT_IDX | MERGEABLE | 1 << 5
    }
    fn write_driver_features(&mut self, features: u64) {
        self.0.borrow_mut().accepted = features;
    }
    fn max_queue_size(&mut self, _: u16) -> u32 {
        1024
    }
    fn notify(&mut self, queue: u16) {
        self.0.borrow_mut().rings[usize::from(queue)].notified += 1;
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.0.borrow().status)
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.borrow_mut().status = status.bits();
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, desc: u64, avail: u64, used: u64) {
        self.0.borrow_mut().rings[usize::from(queue)] = Ring {
            size: size as u16,
            descriptors: desc,
            available: avail,
            used,
            ..Ring::default()
        };
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.borrow().rings[usize::from(queue)].size != 0
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let bytes = &MAC[offset..offset + size_of::<T>()];
        Ok(T::read_from_bytes(bytes).expect("as many bytes as it has"))
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        unreachable!("the configuration of a card is only read")
    }
}
