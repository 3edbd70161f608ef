//! What `cargo xtask mutants` seeded and no other test found.

use arch::Pa;
use gmap::{Access, Attr, Budget, Descriptor, Entry, FRAME, KEYS_MAX, Level, Perm, Policy};
use gmap::{KeyError, Pool, PoolError};

use crate::vm::{PAGE, RAM, Vm, ipa};

#[test]
fn a_device_leaf_is_never_young() {
    let mut vm = Vm::new(PAGE, true);
    let device = Pa::new(0x900_0000).expect("low");
    let rw = Perm {
        exec: false,
        ..Perm::RWX
    };
    vm.gmap
        .map(
            &mut vm.machine,
            ipa(0x900_0000),
            device,
            PAGE,
            Attr::Device,
            rw,
        )
        .expect("free");
    assert_eq!(vm.touch(0x900_0000, false), Ok(0));
    let slice = Budget::leaves(9);
    let end = 0x900_0000 + PAGE;
    let young = vm.gmap.any_young(&vm.machine, 0x900_0000, end, slice);
    assert_eq!(young, Some(false));
    vm.end();
}

#[test]
fn eager_means_dirty_at_the_first_touch_only_where_hardware_keeps_no_dirty_state() {
    for hafdbs in [false, true] {
        let mut vm = Vm::new(PAGE, hafdbs);
        vm.gmap.set_policy(Policy::default());
        let fault = vm.gmap.fault(&mut vm.machine, ipa(RAM), Access::READ);
        assert!(fault.is_ok());
        let (leaf, level) = vm.gmap.leaf(&vm.machine, ipa(RAM)).expect("mapped");
        assert_eq!((leaf.dirty(), level), (!hafdbs, Level::L3));
        vm.end();
    }
}

#[test]
fn a_million_keys_are_read_at_once_and_not_one_more() {
    let count = KEYS_MAX as u64;
    let mut vm = Vm::new(count * PAGE, true);
    vm.enable_keys();
    let mut keys = vec![0xff; KEYS_MAX + 1];
    let read = |keys: &mut [u8]| vm.gmap.read_keys(&vm.machine, ipa(RAM), keys);
    assert_eq!(read(&mut keys), Err(KeyError::Invalid));
    assert_eq!(read(&mut []), Err(KeyError::Invalid));
    assert_eq!(read(&mut keys[..KEYS_MAX]), Ok(()));
    assert!(keys[..KEYS_MAX].iter().all(|key| *key == 0));
    vm.end();
}

#[test]
fn the_pools_last_frame_can_be_freed_and_none_behind_it() {
    let mut words = vec![0; Pool::metadata_words(8)];
    let base = Pa::new(64 * FRAME).expect("low");
    let mut pool = Pool::new(&mut words, base, 8).expect("large enough");
    let end = Pa::new(72 * FRAME).expect("low");
    pool.donate(base..end).expect("ours");
    while pool.alloc(0).is_some() {}
    let last = Pa::new(71 * FRAME).expect("low");
    assert_eq!(pool.free(end, 0), Err(PoolError::Foreign));
    assert_eq!(pool.free(last, 0), Ok(()));
    assert_eq!(pool.alloc(0), Some(last));
}

/// Type in 17:2, parameter in 33:18; bits 0, 1 and 63:34 are clear (seed-spec B.2).
#[test]
fn an_invalid_descriptor_with_any_other_bit_set_is_no_token() {
    for bit in (1..2).chain(34..64) {
        let entry = Descriptor::from_raw(1 << bit).decode(Level::L3);
        assert_eq!(entry, Entry::Reserved, "bit {bit}");
    }
    assert_eq!(Descriptor::from_raw(0).decode(Level::L3), Entry::Empty);
}
