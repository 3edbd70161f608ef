//! The network driver against a card that follows the rules, and against one that does not.
#![expect(
    unsafe_code,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a device in memory; a test that panics has failed"
)]

mod fake;

use fake::{FakeTransport, HostMemory, MAC, Shared};
use proptest::prelude::*;
use virtio_host::{BUFFER_BYTES, Fault, Nic, QUEUE};

type TestNic = Nic<HostMemory, FakeTransport>;

fn nic() -> (TestNic, Shared) {
    let device = Shared::default();
    let nic = Nic::new(FakeTransport(device.clone())).expect("an honest device starts");
    (nic, device)
}

fn send(nic: &mut TestNic, frame: &[u8]) -> bool {
    let Some(mut buffer) = nic.take_buffer() else {
        return false;
    };
    nic.frame_of(&mut buffer, frame.len())
        .expect("a frame that fits")
        .copy_from_slice(frame);
    nic.send(buffer, frame.len());
    true
}

#[test]
fn only_what_is_understood_is_negotiated() {
    let (nic, device) = nic();
    // VERSION_1 and MAC: not EVENT_IDX, not mergeable buffers.
    assert_eq!(device.borrow().accepted(), 1 << 32 | 1 << 5);
    assert_eq!(nic.mac(), MAC);
}

#[test]
fn frames_pass_both_ways_while_the_ring_index_wraps() {
    let (mut nic, device) = nic();
    for round in 0..70_000_u32 {
        let frame = round.to_le_bytes();
        device.borrow_mut().deliver(&frame);
        let mut received = nic.receive().expect("the frame that was delivered");
        assert_eq!(received.frame(), frame);
        nic.recycle(received);
        assert!(send(&mut nic, &frame));
        assert_eq!(device.borrow_mut().transmit().as_deref(), Some(&frame[..]));
    }
    assert_eq!(nic.fault(), None);
    // The device never asked to be left alone, so it was told each time.
    assert_eq!(device.borrow().notified(1), 70_000);
}

#[test]
fn a_device_that_sends_nothing_stops_the_sender_and_not_for_good() {
    let (mut nic, device) = nic();
    for _ in 0..QUEUE {
        assert!(send(&mut nic, b"frame"));
    }
    assert!(!send(&mut nic, b"frame"));
    nic.want_room();
    assert!(device.borrow_mut().transmit().is_some());
    assert!(send(&mut nic, b"frame"));
}

#[test]
fn a_frame_longer_than_a_buffer_has_no_place_in_it() {
    let (mut nic, _) = nic();
    let mut buffer = nic.take_buffer().expect("all are there");
    assert!(nic.frame_of(&mut buffer, BUFFER_BYTES - 12).is_some());
    assert!(nic.frame_of(&mut buffer, BUFFER_BYTES - 11).is_none());
    assert!(nic.frame_of(&mut buffer, usize::MAX).is_none());
}

#[test]
fn a_device_that_claims_more_than_a_buffer_holds_is_not_used_any_more() {
    for bytes in [BUFFER_BYTES as u32 + 1, u32::MAX, 11, 0] {
        let (mut nic, device) = nic();
        let (token, ..) = device.borrow_mut().take(0).expect("a buffer");
        device.borrow_mut().give_back(0, token.into(), bytes);
        assert!(nic.receive().is_none());
        assert_eq!(nic.fault(), Some(Fault::Length { bytes }));
        device.borrow_mut().deliver(b"frame");
        assert!(nic.receive().is_none());
    }
}

#[test]
fn a_device_that_returns_a_buffer_twice_is_not_used_any_more() {
    let (mut nic, device) = nic();
    let (token, ..) = device.borrow_mut().take(0).expect("a buffer");
    device.borrow_mut().give_back(0, token.into(), 60);
    device.borrow_mut().give_back(0, token.into(), 60);
    let _kept = nic.receive().expect("the first is in order");
    assert!(nic.receive().is_none());
    assert_eq!(nic.fault(), Some(Fault::Token { token }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
    /// Whatever a device writes into its used rings, the driver does not panic, and reads
    /// nothing beyond a buffer.
    #[test]
    fn no_used_ring_makes_the_driver_panic(
        entries in prop::collection::vec(
            (0..2usize, prop_oneof![0..300u32, any::<u32>()], prop_oneof![0..3000u32, any::<u32>()]),
            0..64,
        ),
    ) {
        let (mut nic, device) = nic();
        for (queue, token, bytes) in entries {
            send(&mut nic, b"frame");
            device.borrow_mut().give_back(queue, token, bytes);
            while let Some(mut received) = nic.receive() {
                prop_assert!(received.frame().len() <= BUFFER_BYTES - 12);
                nic.recycle(received);
            }
            nic.want_room();
        }
    }
}
