//! Storage keys: the reference self-test of s390, and the truth tables.

use crate::vm::{PAGE, RAM, Vm, ipa};
use gmap::{Access, Budget, Cache, Key, KeyError, Mask, Policy};

const PAGES: u64 = 128;

/// The reference test's pattern: the key of page `n` is `n << 1`, all bits but the reserved.
fn pattern(n: u64) -> u8 {
    u8::try_from(n << 1).expect("128 pages")
}

/// Touches every page once if `point` is the point where this run faults its pages in.
fn fault_in(vm: &mut Vm, now: u32, point: u32) {
    if now == point {
        for n in 0..PAGES {
            vm.touch(RAM + n * PAGE, true).expect("RAM");
        }
    }
}

fn operation(vm: &mut Vm, code: u8, n: u64, key: u8) -> Result<u8, KeyError> {
    vm.fill_cache();
    let at = ipa(RAM + n * PAGE);
    vm.gmap
        .key_operation(&vm.machine, &mut vm.cache, code, at, key)
}

/// What a page's key shows once it has been written: referenced and changed.
const TOUCHED: u8 = 0x06;

#[test]
fn b23_the_twenty_cases_of_the_reference_test_do_not_depend_on_what_is_mapped() {
    for point in 0..=4 {
        for last in ["init", "rrbe", "iske", "sske"] {
            for hafdbs in [false, true] {
                let mut vm = Vm::new(PAGES * PAGE, hafdbs);
                let none = vm.gmap.key(&vm.machine, ipa(RAM));
                assert_eq!(none, Err(KeyError::Off), "no keys before their first use");
                fault_in(&mut vm, 1, point);
                vm.enable_keys();
                fault_in(&mut vm, 2, point);
                let touched = |now: u32| if point == now { TOUCHED } else { 0 };
                // SSKE returns the old key: zero, but for what was touched after the reset.
                for n in 0..PAGES {
                    let old = operation(&mut vm, 3, n, pattern(n));
                    assert_eq!(old, Ok(touched(2)), "sske of page {n}");
                }
                fault_in(&mut vm, 3, point);
                let shown = |n: u64| pattern(n) | touched(3);
                if last == "init" {
                    let mut keys = [0; 128];
                    vm.gmap
                        .read_keys(&vm.machine, ipa(RAM), &mut keys)
                        .expect("on");
                    for (n, key) in (0..).zip(keys) {
                        assert_eq!(key, shown(n));
                    }
                }
                for n in 0..PAGES {
                    match last {
                        "rrbe" => {
                            let old = operation(&mut vm, 2, n, 0);
                            assert_eq!(old, Ok(shown(n) & 6));
                            let now = operation(&mut vm, 1, n, 0);
                            assert_eq!(now, Ok(shown(n) & !4), "only R is reset");
                        }
                        "iske" => assert_eq!(operation(&mut vm, 1, n, 0), Ok(shown(n))),
                        "sske" => {
                            let old = operation(&mut vm, 3, n, 0x50);
                            assert_eq!(old, Ok(shown(n)));
                            assert_eq!(operation(&mut vm, 1, n, 0), Ok(0x50));
                        }
                        _ => {}
                    }
                }
                fault_in(&mut vm, 4, point);
                vm.end();
            }
        }
    }
}

#[test]
fn b24_a_conditional_set_passes_over_exactly_what_its_masks_let_it() {
    let key = |byte| Key::from_byte(byte).expect("no reserved bit");
    for present in [false, true] {
        let mut vm = Vm::new(PAGES * PAGE, true);
        vm.enable_keys();
        if present {
            vm.touch(RAM, true).expect("RAM");
        }
        for old in (0..=0xfe).step_by(2).filter(|byte| byte & 0xe0 == 0x40) {
            for new in (0..=0xfe).step_by(2).filter(|byte| byte & 0xe0 == 0x40) {
                for masks in 0..4_u8 {
                    let mask = Mask {
                        referenced: masks & 1 != 0,
                        changed: masks & 2 != 0,
                    };
                    vm.set_key(RAM, key(old));
                    let free = !(u8::from(mask.referenced) << 2 | u8::from(mask.changed) << 1);
                    // An absent page is always set; a present one only for a difference.
                    let set = !present || (old ^ new) & free != 0;
                    vm.fill_cache();
                    let (machine, cache) = (&vm.machine, &mut vm.cache);
                    let result = vm.gmap.set_key_if(machine, cache, ipa(RAM), key(new), mask);
                    assert_eq!(result, Ok((key(old), set)));
                    let now = vm.gmap.key(&vm.machine, ipa(RAM));
                    assert_eq!(now.map(Key::byte), Ok(if set { new } else { old }));
                }
            }
        }
        vm.end();
    }
}

#[test]
fn b26_an_access_needs_an_equal_key_unless_it_is_a_load_without_fetch_protection() {
    let mut vm = Vm::new(PAGES * PAGE, true);
    assert!(
        vm.gmap.key_allows(&vm.machine, ipa(RAM), 7, Access::WRITE),
        "no keys yet"
    );
    vm.enable_keys();
    for byte in (0..=0xf8).step_by(8) {
        vm.set_key(RAM, Key::from_byte(byte).expect("no reserved bit"));
        let (access, fetch) = (byte >> 4, byte & 8 != 0);
        for with in 0..16 {
            let allows = |access| vm.gmap.key_allows(&vm.machine, ipa(RAM + 8), with, access);
            assert_eq!(allows(Access::WRITE), with == 0 || with == access);
            assert_eq!(allows(Access::READ), with == 0 || with == access || !fetch);
        }
    }
    vm.end();
}

#[test]
fn b28_key_operations_refuse_what_is_not_defined_and_ask_for_memory() {
    let mut vm = Vm::new(2 << 20, true);
    vm.touch(RAM, true).expect("RAM");
    vm.enable_keys();
    for code in (0..=255).filter(|code| !(1..=3).contains(code)) {
        assert_eq!(operation(&mut vm, code, 0, 0), Err(KeyError::Invalid));
    }
    assert_eq!(
        operation(&mut vm, 3, 0, 1),
        Err(KeyError::Invalid),
        "reserved bit"
    );
    assert_eq!(
        operation(&mut vm, 1, 512, 0),
        Err(KeyError::NoRam),
        "past RAM"
    );
    let mut empty = Cache::new();
    let result = vm
        .gmap
        .key_operation(&vm.machine, &mut empty, 3, ipa(RAM), 0x30);
    assert_eq!(result, Err(KeyError::NoMemory), "a block must be split");
    let key = vm.gmap.key(&vm.machine, ipa(RAM)).map(Key::byte);
    assert_eq!(key, Ok(0), "and nothing has changed");
    assert_eq!(operation(&mut vm, 3, 0, 0x30), Ok(0));
    let too_many = &mut vec![0; gmap::KEYS_MAX + 1];
    for keys in [&mut [][..], too_many] {
        let result = vm.gmap.read_keys(&vm.machine, ipa(RAM), keys);
        assert_eq!(result, Err(KeyError::Invalid));
    }
    vm.end();
}

#[test]
fn b27_a_key_survives_its_page_and_a_limit_on_tables_refuses_a_split() {
    let mut vm = Vm::new(4 << 20, true);
    vm.enable_keys();
    vm.touch(RAM, true).expect("RAM");
    vm.set_key(RAM + PAGE, Key::from_byte(0xd8).expect("valid"));
    let gone = vm
        .gmap
        .reclaim(&mut vm.machine, ipa(RAM), 2 << 20, Budget::UNBOUNDED);
    assert_eq!(gone, Ok(None));
    let key = |vm: &Vm| {
        vm.gmap
            .key(&vm.machine, ipa(RAM + PAGE))
            .map(|key| key.byte() & 0xf8)
    };
    assert_eq!(key(&vm), Ok(0xd8));
    vm.touch(RAM + PAGE, true).expect("RAM");
    assert_eq!(key(&vm), Ok(0xd8));
    vm.gmap.set_policy(Policy {
        table_limit: vm.gmap.stats().table_bytes,
        ..vm.gmap.policy()
    });
    vm.touch(RAM + (2 << 20), true)
        .expect("a block needs no table");
    assert_eq!(operation(&mut vm, 3, 512, 0x10), Err(KeyError::Limit));
    vm.end();
}

#[test]
fn a_back_pointer_comes_back_as_it_went() {
    let mut vm = Vm::new(PAGES * PAGE, true);
    assert!(
        !vm.gmap.set_back_pointer(&vm.machine, ipa(RAM), 1),
        "no words yet"
    );
    vm.enable_keys();
    vm.set_key(RAM, Key::from_byte(0x18).expect("valid"));
    let value = 0x0123_4567_89ab_cdef;
    assert!(vm.gmap.set_back_pointer(&vm.machine, ipa(RAM), value));
    assert_eq!(vm.gmap.back_pointer(&vm.machine, ipa(RAM)), value);
    let key = vm.gmap.key(&vm.machine, ipa(RAM)).map(Key::byte);
    assert_eq!(key, Ok(0x18), "beside the key");
    vm.end();
}
