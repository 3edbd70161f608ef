//! What the search found once, cut down.

use super::run;
use crate::ops::Op::*;

#[test]
fn an_spi_rerouted_while_active_and_pending_moves_at_its_end() {
    run(
        8,
        3,
        true,
        &[
            Wire(6, 254, true),
            Acknowledge(0, true),
            Route(254, 4),
            End(0),
        ],
    );
}

#[test]
fn clearing_the_active_state_of_a_pended_hardware_interrupt_gives_it_back() {
    let ops = [
        SplitEoi(0, true),
        Wire(0, 200, true),
        Acknowledge(0, true),
        End(0),
        Pulse(0, 200),
        Bit(0, 0x380, 200),
        Acknowledge(0, true),
    ];
    run(1, 4, true, &ops);
}

#[test]
fn one_pending_again_in_place_hides_nothing_more_urgent_outside() {
    let ops = [
        Pulse(1, 15),
        Acknowledge(1, true),
        Sgi(0, 0x0300_00ff, true),
        Sgi(0, 0x0200_00ff, true),
        Sgi(0, 0x0100_00ff, true),
        Pulse(1, 15),
        End(1),
        Acknowledge(1, false),
        End(1),
        Acknowledge(1, true),
    ];
    run(2, 2, true, &ops);
}

#[test]
fn a_message_on_a_hardware_interrupt_outlives_the_wire() {
    let ops = [
        Message(0x40, 200),
        Wire(0, 200, true),
        Wire(1, 200, false),
        Acknowledge(0, true),
        End(0),
    ];
    run(2, 2, true, &ops);
}

#[test]
fn an_lpi_in_a_list_register_that_is_moved_to_where_lpis_are_off_is_dropped() {
    let ops = [
        Command([14, 0, 0, 65536]),
        RedistWrite(1, 0, 4, 0),
        Command([14, 0, 65536, 131_072]),
        ItsWrite(136, 8, 320),
        DeviceWrites(8, 0),
        ItsWrite(136, 8, 3456),
    ];
    let its = super::WithIts::Yes { keeps_lpis: false };
    super::run_with(its, 3, 16, true, &ops);
}

#[test]
fn what_was_made_active_twice_by_a_register_is_not_taken_for_what_is_handled() {
    let ops = [
        Bit(0, 0x300, 16),
        Bit(2, 0x100, 254),
        Wire(7, 254, true),
        DistWrite(0, 4, 3),
        DistWrite(0, 4, 0),
        Bit(0, 0x300, 16),
        DistWrite(0, 4, 3),
        Acknowledge(0, false),
        Message(0x40, 40),
        Bit(4, 0x100, 40),
        End(0),
    ];
    run(8, 1, false, &ops);
}

#[test]
fn an_end_without_list_register_spares_what_nobody_acknowledged() {
    let ops = [
        Wire(0, 200, true),
        Bit(0, 0x300, 15),
        SplitEoi(1, true),
        Acknowledge(0, true),
        Bit(1, 0x300, 128),
        Sgi(0, 215, false),
        Acknowledge(0, false),
        Dir(1, 200),
        End(0),
        End(0),
    ];
    run(2, 3, true, &ops);
}
#[test]
fn an_end_without_list_register_spares_what_another_vcpu_took_since() {
    let ops = [
        SplitEoi(1, true),
        Wire(1, 63, true),
        Acknowledge(0, true),
        Route(63, 1),
        Dir(1, 63),
        Acknowledge(1, true),
        End(0),
    ];
    run(8, 16, true, &ops);
}
