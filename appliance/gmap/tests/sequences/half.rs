//! Blocks that move, or are looked at for zeroes, a part at a time: what is seen between two parts.

use crate::vm::{LARGE, PAGE, RAM, Vm, ipa};
use gmap::{Access, Budget, Level, Look, Machine};

const PART: Budget = Budget::leaves(1);

fn vm(hafdbs: bool) -> Vm {
    let mut vm = Vm::new(LARGE, hafdbs);
    for page in [0, 1, 300, 511] {
        vm.touch(RAM + page * PAGE, true).expect("RAM");
        write(&vm, page, 7 + page);
    }
    vm
}

fn write(vm: &Vm, page: u64, value: u64) {
    let at = RAM + page * PAGE;
    let pa = vm.machine.reach(vm.gmap.vttbr(), vm.vtcr, at, true);
    vm.machine.set_content(pa.expect("writable"), value);
}

fn read(vm: &Vm, page: u64) -> u64 {
    let at = RAM + page * PAGE;
    let pa = vm.machine.reach(vm.gmap.vttbr(), vm.vtcr, at, false);
    vm.machine.content(pa.expect("readable all the time"))
}

/// Moves one part; returns whether there is more.
fn step(vm: &mut Vm) -> bool {
    let range = (RAM, RAM + LARGE);
    let moved = vm
        .gmap
        .move_frames(&mut vm.machine, range, PART, |_, _| true);
    assert!(!moved.short);
    moved.next.is_some()
}

fn place(vm: &Vm) -> (u64, Level) {
    let (leaf, level) = vm.gmap.leaf(&vm.machine, ipa(RAM)).expect("populated");
    (leaf.base().raw(), level)
}

#[test]
fn b16_a_block_moves_in_parts_can_be_read_meanwhile_and_stays_one() {
    for hafdbs in [false, true] {
        let mut vm = vm(hafdbs);
        let (before, _) = place(&vm);
        let mut parts = 1;
        while step(&mut vm) {
            assert_eq!([0, 300, 511].map(|page| read(&vm, page)), [7, 307, 518]);
            assert_eq!(place(&vm), (before, Level::L2));
            parts += 1;
        }
        assert!(parts >= 64, "{parts} parts");
        let (after, level) = place(&vm);
        assert!(after != before && level == Level::L2);
        assert_eq!([0, 300, 511].map(|page| read(&vm, page)), [7, 307, 518]);
        // As it was before: where hardware keeps dirty state, a write takes no fault.
        assert_eq!(vm.touch(RAM, true), Ok(u32::from(!hafdbs)));
        assert_eq!(vm.gmap.stats().moves, 1);
        vm.end();
    }
}

#[test]
fn b20_who_is_to_write_to_a_block_that_moves_helps_and_it_moves_once() {
    let mut vm = vm(true);
    let (before, _) = place(&vm);
    for _ in 0..5 {
        assert!(step(&mut vm));
    }
    let at = ipa(RAM + 300 * PAGE);
    assert!(vm.machine.guest(vm.gmap.vttbr(), vm.vtcr, at.raw(), true));
    let look = vm.gmap.look(&vm.machine, at, Access::WRITE);
    assert!(matches!(look, Ok(Look::Held(_))), "{look:?}");
    let mut parts = 0;
    while vm.gmap.help(&mut vm.machine, at) {
        parts += 1;
    }
    assert!(parts > 50, "{parts}: what was done is not done again");
    write(&vm, 300, 9);
    let (after, level) = place(&vm);
    assert!(after != before && level == Level::L2);
    while step(&mut vm) {}
    assert_eq!((place(&vm), vm.gmap.stats().moves), ((after, level), 1));
    assert_eq!([0, 300, 511].map(|page| read(&vm, page)), [7, 9, 518]);
    vm.end();
}

#[test]
fn b20_a_block_that_is_written_again_and_again_moves_page_by_page() {
    let mut vm = vm(true);
    let (before, _) = place(&vm);
    let (mut writes, mut at) = (0, RAM);
    loop {
        let (machine, range) = (&mut vm.machine, (at, RAM + LARGE));
        let moved = vm.gmap.move_frames(machine, range, PART, |_, _| true);
        let Some(next) = moved.next else { break };
        at = next.raw();
        if place(&vm).1 == Level::L2 {
            vm.gmap.let_go(&vm.machine, ipa(RAM));
            writes += 1;
            write(&vm, 0, writes);
        }
    }
    assert!(writes > 2 && place(&vm) != (before, Level::L2));
    assert_eq!(vm.gmap.stats().leaves, [512, 0, 0]);
    assert_eq!(
        [0, 300, 511].map(|page| read(&vm, page)),
        [writes, 307, 518]
    );
    assert_eq!(vm.gmap.stats().moves, 512, "every page has moved, once");
    vm.end();
}

#[test]
fn b30_a_block_of_zeroes_goes_in_parts_and_one_that_is_written_meanwhile_stays() {
    for disturbed in [false, true] {
        let mut vm = Vm::new(LARGE, true);
        vm.touch(RAM, true).expect("RAM");
        let mut parts = 0;
        let (mut at, mut lost) = (RAM, 0);
        loop {
            let report = |_, bytes| lost += bytes;
            let range = (at, RAM + LARGE);
            let next = vm.gmap.drop_zeroes(&mut vm.machine, range, PART, report);
            let Some(next) = next else { break };
            at = next.raw();
            parts += 1;
            if disturbed && parts == 40 {
                // Behind what was looked at already.
                assert_eq!(vm.touch(RAM, true), Ok(1));
                write(&vm, 0, 5);
            }
        }
        let there = vm.gmap.leaf(&vm.machine, ipa(RAM));
        assert_eq!(
            there.map(|(_, level)| level),
            disturbed.then_some(Level::L2)
        );
        assert_eq!(lost, if disturbed { 0 } else { LARGE });
        if disturbed {
            assert_eq!(read(&vm, 0), 5);
        } else {
            assert!(parts >= 64, "{parts} parts");
        }
        vm.end();
    }
}

#[test]
fn b09_a_vm_that_ends_with_a_block_half_moved_leaves_no_frame() {
    let mut vm = vm(false);
    for _ in 0..9 {
        assert!(step(&mut vm));
    }
    let (frame, _) = place(&vm);
    assert!(!vm.machine.is_zero(arch::Pa::new(frame).expect("fits"), 9));
    vm.end();
}
