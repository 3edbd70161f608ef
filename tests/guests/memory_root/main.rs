//! A root that tests core's side of memory: it runs one guest (`memory`), tells it what to
//! touch, and compares what core says with what was touched. Prints `TEST` lines; with the
//! machine's boot argument `bench` it measures instead, on one core; `sharing`, `readers`,
//! `crowded` and `wiped` are tests that want a machine of their own.
#![no_std]
#![no_main]

extern crate alloc;

mod bench;
#[path = "../direct/heap.rs"]
mod heap;
mod key_tests;
mod late_bench;
mod life_tests;
mod migrate_tests;
#[path = "../memory/orders.rs"]
mod orders;
mod share_tests;
mod state_tests;
mod touch_tests;
mod track_tests;
#[path = "../direct/tree.rs"]
mod tree;
mod vm;
mod wipe_tests;

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::HARDWARE_HAFDBS;
use payload::Test;
use payload::{el1_test, println, psci, root, test};

use crate::vm::Vm;

payload::guest!(main);

/// RAM of the guest: 1.25 GiB and some.
const RAM_BYTES: u64 = 1344 << 20;
/// Bytes of a page.
const PAGE: u64 = 4096;

static HANDLE: AtomicU64 = AtomicU64::new(0);

/// Returns the guest that the tests share.
fn vm() -> Vm {
    Vm {
        handle: HANDLE.load(Ordering::Relaxed),
        ram_bytes: RAM_BYTES,
    }
}

/// Returns an address in its RAM that no other test uses.
const fn area(mib: u64) -> u64 {
    RAM_BASE + (mib << 20)
}

/// Returns whether hardware keeps access flag and dirty state.
fn hafdbs() -> bool {
    root::host_memory().hardware & HARDWARE_HAFDBS != 0
}

fn main() -> ! {
    let host = root::host_memory();
    println!(
        "MEMORY hardware {:#x} vmids {} free {:#x}",
        host.hardware, host.vmids_max, host.free_bytes
    );
    let runs: [(&str, &[Test]); 4] = [
        (
            "sharing",
            &[
                el1_test!(
                    "clones_see_their_own_writes_and_cost_what_is_written",
                    share_tests::clones
                ),
                el1_test!("zeroes_are_shared_until_written", share_tests::zeroes),
                el1_test!("what_cannot_be_shared_is_refused", share_tests::refused),
                el1_test!(
                    "b32_memory_keys_and_states_migrate_under_load",
                    migrate_tests::end_to_end
                ),
            ],
        ),
        (
            "readers",
            &[el1_test!(
                "m4_no_read_finds_what_another_vm_wrote",
                wipe_tests::readers
            )],
        ),
        (
            "crowded",
            &[el1_test!(
                "what_guests_can_do_without_is_there_for_others",
                wipe_tests::crowded
            )],
        ),
        (
            "wiped",
            &[el1_test!(
                "b40_m9_nothing_is_left_of_a_vm",
                wipe_tests::wiped
            )],
        ),
    ];
    for (argument, tests) in runs {
        if root::bootargs().contains(argument) {
            test::run_tests(tests);
        }
    }
    let guest = Vm::create(RAM_BYTES).expect("there is memory for a VM");
    HANDLE.store(guest.handle, Ordering::Relaxed);
    if root::bootargs().contains("bench") {
        vm::share_the_core();
        guest.start();
        bench::run();
        psci::system_off();
    }
    // First: the machine has one whole GiB, until something that stays takes a page of it.
    test::run_test(&el1_test!("b15_a_gibibyte_in_one_leaf", touch_tests::huge));
    guest.start();
    for test in [
        el1_test!("b25_no_key_before_the_first_use", key_tests::off),
        el1_test!("b11_a_clean_page_costs_what_it_must", touch_tests::traps),
        el1_test!("b18_the_dirty_set_is_exact", track_tests::dirty),
        el1_test!(
            "b18_a_block_is_reported_whole_until_split",
            track_tests::blocks
        ),
        el1_test!("b17_the_young_set_is_exact", track_tests::young),
        el1_test!(
            "b30_unused_memory_comes_back_and_reads_zero",
            state_tests::unused
        ),
        el1_test!("b30_a_page_written_again_is_kept", state_tests::kept),
        el1_test!("b29_states_are_what_the_guest_said", state_tests::states),
        el1_test!(
            "b13_exchanges_are_atomic_against_the_guest",
            key_tests::atomic
        ),
        el1_test!("b23_keys_are_the_same_mapped_or_not", key_tests::selftest),
        el1_test!("b24_conditional_set_and_reset", key_tests::conditional),
        el1_test!("b26_a_wrong_key_changes_nothing", key_tests::enforced),
        el1_test!("b27_keys_outlive_their_frames", key_tests::survive),
        el1_test!(
            "b20_a_pinned_page_moves_and_nothing_is_lost",
            life_tests::pinned
        ),
        el1_test!(
            "b16_a_guest_under_load_survives_everything",
            life_tests::chaos
        ),
    ] {
        test::run_test(&test);
    }
    guest.end();
    // Keys, which stay on for good, make pages of blocks: a VM without.
    let guest = Vm::create(RAM_BYTES).expect("there is memory for a VM");
    HANDLE.store(guest.handle, Ordering::Relaxed);
    guest.start();
    test::run_test(&el1_test!(
        "b15_a_gibibyte_in_512_faults",
        touch_tests::gibibyte
    ));
    guest.end();
    test::run_test(&el1_test!(
        "c05_a_masked_call_is_not_there",
        state_tests::masked
    ));
    test::run_test(&el1_test!(
        "m7_a_limit_ends_the_vm_that_meets_it",
        life_tests::limit
    ));
    test::run_test(&el1_test!(
        "m5_w2_vmids_and_frames_come_back",
        life_tests::lives
    ));
    test::summary();
    psci::system_off()
}
