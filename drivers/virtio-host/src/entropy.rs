//! Random bytes from a virtio-rng device (virtio 1.2, 5.4).

#![expect(unsafe_code, reason = "a buffer lent to a device")]

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::{BufferDirection, Error, Hal};

const REQUEST: u16 = 0;
const ENTRIES: usize = 2;
const PAGE: usize = 4096;

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const VERSION_1 = 1 << 32;
    }
}

/// Asks the device behind `transport` once for as many random bytes as `out` holds, and
/// returns how many it gave. Waits as long as `wait` returns true.
///
/// Its DMA memory (3 pages) stays allocated: the device may still write there.
///
/// # Errors
/// [`Error::NotReady`] if the device gave nothing in that time; those of the queue.
pub fn fill<H: Hal, T: Transport>(
    mut transport: T,
    out: &mut [u8],
    mut wait: impl FnMut() -> bool,
) -> Result<usize, Error> {
    let _: Features = transport.begin_init(Features::all());
    let mut queue = VirtQueue::<H, ENTRIES>::new(&mut transport, REQUEST, false, false)?;
    queue.set_dev_notify(false);
    transport.finish_init();

    let (pa, memory) = H::dma_alloc(1, BufferDirection::DeviceToDriver);
    if pa == 0 {
        return Err(Error::DmaError);
    }
    // SAFETY: one zeroed page that aliases nothing and is never given back.
    let page = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), PAGE) };
    let Some(buffer) = page.get_mut(..out.len().min(PAGE)) else {
        return Err(Error::InvalidParam);
    };
    // SAFETY: the buffer is not read before `pop_used` returns it.
    let token = unsafe { queue.add(&[], &mut [&mut *buffer]) }?;
    transport.notify(REQUEST);
    while !queue.can_pop() {
        if !wait() {
            // Without the reset the device would write to a queue that is gone.
            transport.set_status(virtio_drivers::transport::DeviceStatus::empty());
            return Err(Error::NotReady);
        }
    }
    // SAFETY: the same buffer as was added.
    let bytes = unsafe { queue.pop_used(token, &[], &mut [&mut *buffer]) }?;
    let given = usize::try_from(bytes).map_or(buffer.len(), |bytes| bytes.min(buffer.len()));
    for (to, from) in out.iter_mut().zip(buffer.iter()).take(given) {
        *to = *from;
    }
    transport.set_status(virtio_drivers::transport::DeviceStatus::empty());
    Ok(given)
}
