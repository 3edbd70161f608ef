//! What a guest finds must be what the architecture and the map say: `TEST` lines.
//!
//! The same image runs under plain QEMU, whose answers are the oracle wherever Skete
//! promises no more than the architecture. Where it promises more, `on_skete` asks.
//!
//! Boot arguments: `rounds=N` for the tests that repeat, `psci=N` for those of PSCI that do, `seed=N` for those that draw,
//! `serror=1` if somebody makes SErrors pending, `end=1` to end from every vCPU at once, `only=` how the names of tests begin, and
//! `c1list=1` to print every system register that reads.
#![no_std]
#![no_main]

mod aborts;
mod calls;
mod debug;
mod gic_tests;
mod hidden;
mod its_tests;
mod pauth;
mod pmu;
mod psci_tests;
mod reset;
mod serror;
mod sgis;
mod state;
mod sve;
mod syndromeless;
mod sysregs;
mod timers;
mod waits;

use payload::{el1_test, machine, mmu, println, psci, test};

payload::guest!(main);

/// Returns whether a test is to be run: with `only=` those whose name begins so.
fn chosen(test: &&test::Test) -> bool {
    machine::argument_text("only").is_none_or(|begin| test.name.starts_with(begin))
}

fn main() -> ! {
    println!(
        "CONFORMANCE on_skete {} cpus {} ram {:#x}",
        machine::on_skete(),
        machine::cpus(),
        machine::ram_bytes()
    );
    let with_mmu_off = [
        el1_test!("c7_first_instruction", reset::first_instruction),
        el1_test!("c7_first_fp", reset::first_fp),
        el1_test!("c7_first_vectors", sve::first),
        el1_test!("c7_first_keys", pauth::first),
        el1_test!("c1_every_register_reads_or_is_undefined", sysregs::read_all),
        el1_test!(
            "c1_no_register_of_el2_or_el3_can_be_written",
            sysregs::write_el2
        ),
        el1_test!("c1_identification_cannot_be_written", sysregs::write_ids),
        el1_test!("c2_what_is_hidden_is_undefined", hidden::undefined),
        el1_test!("c2_what_must_be_hidden_is", hidden::policy),
        el1_test!("c4_list_is_complete", state::list_is_complete),
        el1_test!("c4_registers_survive_exits", state::registers),
        el1_test!("c4_fp_survives_exits", state::fp),
        el1_test!("c4_keys_survive_exits", pauth::keys),
        el1_test!("c3_vectors_survive_exits", sve::survives_exits),
        el1_test!("c3_v_clears_the_rest", sve::v_clears_the_rest),
        el1_test!("c3_every_vector_length", sve::lengths),
        el1_test!("c5_breakpoints", debug::breakpoints),
        el1_test!("c5_watchpoints", debug::watchpoints),
        el1_test!("c5_single_step", debug::single_step),
        el1_test!("c5_os_lock", debug::os_lock),
        el1_test!("c5_nothing_at_el2", debug::nothing_at_el2),
        el1_test!("c5_values_are_kept", debug::values_are_kept),
        el1_test!("c10_an_serror_is_taken_once", serror::taken_once),
        el1_test!("c6_cycles_are_counted", pmu::counts),
        el1_test!("c6_exits_do_not_count", pmu::exits_do_not_count),
        el1_test!("c6_software_increments", pmu::software_increments),
        el1_test!("c6_user_access", pmu::user_access),
        el1_test!("abort_data_outside_ram", aborts::data),
        el1_test!("abort_fetch_outside_ram", aborts::fetch),
        el1_test!("hole_below_ram_reads_as_zero", aborts::hole),
        el1_test!("c11_accesses_without_a_syndrome", syndromeless::run),
        el1_test!("c9_hvc_every_owner", calls::hvc),
        el1_test!("c9_smc_every_owner", calls::smc),
        el1_test!("c9_other_immediates", calls::immediates),
        el1_test!("psci_version_and_features", psci_tests::features),
    ];
    with_mmu_off.iter().filter(chosen).for_each(test::run_test);
    mmu::enable();
    let with_mmu_on = [
        el1_test!("abort_data_outside_ram_mmu_on", aborts::data),
        el1_test!("c11_accesses_without_a_syndrome_mmu_on", syndromeless::run),
        el1_test!("psci_states_and_errors", psci_tests::states),
        el1_test!(
            "psci_optional_functions_are_not_there",
            psci_tests::optional
        ),
        el1_test!("psci_cpu_suspend_is_standby", psci_tests::suspend),
        el1_test!("psci_on_and_off_again", psci_tests::cycles),
        el1_test!("psci_one_winner", psci_tests::one_winner),
        el1_test!("c7_second_vcpu", reset::second_vcpu),
        el1_test!("gic_identification", gic_tests::identification),
        el1_test!("gic_read_only_registers", gic_tests::read_only),
        el1_test!("gic_sgi_to_self", gic_tests::sgi_to_self),
        el1_test!("gic_spi_by_ispendr", gic_tests::spi),
        el1_test!(
            "gic_pending_while_disabled",
            gic_tests::pending_while_disabled
        ),
        el1_test!("gic_priorities", gic_tests::priorities),
        el1_test!("gic_priority_mask", gic_tests::priority_mask),
        el1_test!("gic_active_is_not_taken_again", gic_tests::active),
        el1_test!("gic_every_spi", gic_tests::every_spi),
        el1_test!(
            "gic_more_active_than_list_registers",
            gic_tests::more_active_than_registers
        ),
        el1_test!("gic_random_accesses", gic_tests::random),
        el1_test!("timer_fires", timers::fires),
        el1_test!("timer_wakes_wfi", timers::wakes_wfi),
        el1_test!("timer_past_fires_at_once", timers::past),
        el1_test!("timer_masked_or_off_does_not_fire", timers::masked),
        el1_test!("timer_level_shows_as_pending", timers::level),
        el1_test!("timer_edges", timers::edges),
        el1_test!("timers_are_independent", timers::independent),
        el1_test!("s1_waits_keep_their_deadlines", waits::deadlines),
        el1_test!("counter_goes_forward", timers::forward),
        el1_test!("c6_overflow_interrupts", pmu::interrupts),
        el1_test!("c5_watchpoints_mmu_on", debug::watchpoints),
        el1_test!("sgi_all_to_all", sgis::all_to_all),
        el1_test!("sgi_to_all_but_self", sgis::all_but_self),
        el1_test!("spi_to_every_vcpu", sgis::spi_routes),
        el1_test!("its_identification", its_tests::identification),
        el1_test!("lpi_by_command", its_tests::by_command),
        el1_test!("lpi_configuration", its_tests::configuration),
        el1_test!("lpi_more_than_list_registers", its_tests::many),
        el1_test!("lpi_pending_table", its_tests::pending_table),
        el1_test!("lpi_moves", its_tests::moves),
        el1_test!("its_random_commands", its_tests::random),
        el1_test!("its_random_commands_from_all", its_tests::rivals),
    ];
    with_mmu_on.iter().filter(chosen).for_each(test::run_test);
    test::summary();
    if machine::argument("end").is_some() {
        psci_tests::end_from_all();
    }
    psci::system_off()
}
