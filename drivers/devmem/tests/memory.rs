//! How nvgrace-gpu divides its memory, and that opening leaves nothing behind.

use devmem::Memory;
use devmem::profile::nvgrace_gpu::{Mig, SplitError, split};
use devmem::{Failed, STEPS, Step, Steps, close, open};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Sizes of real boards and of edges: usemem, its BAR, resmem, its BAR, worked out by hand.
#[test]
fn a06_memory_is_divided_as_the_driver_does() {
    let table = [
        // GH200 with 96 GiB, less what the firmware keeps.
        (96 * GIB, [95 * GIB, 128 * GIB, GIB, GIB]),
        (
            95 * GIB + 700 * MIB,
            [94 * GIB + 512 * MIB, 128 * GIB, GIB + 188 * MIB, 2 * GIB],
        ),
        (144 * GIB, [143 * GIB, 256 * GIB, GIB, GIB]),
        // One byte short of the next half gibibyte.
        (
            3 * GIB - 1,
            [GIB + 512 * MIB, 2 * GIB, GIB + 512 * MIB - 1, 2 * GIB],
        ),
        (2 * GIB, [GIB, GIB, GIB, GIB]),
        (GIB + 512 * MIB, [512 * MIB, 512 * MIB, GIB, GIB]),
    ];
    for (bytes, [usemem, usemem_bar, resmem, resmem_bar]) in table {
        let got = split(bytes, Mig::NeedsCarveOut).expect("is enough");
        assert_eq!((got.usemem.len, got.usemem.bar_size), (usemem, usemem_bar));
        assert_eq!((got.usemem.offset, got.usemem.memory), (0, Memory::Cached));
        let part = got.resmem.expect("the carve-out");
        assert_eq!((part.len, part.bar_size), (resmem, resmem_bar));
        assert_eq!((part.offset, part.memory), (usemem, Memory::WriteCombining));
        assert!((GIB..GIB + 512 * MIB).contains(&part.len));
    }
}

#[test]
fn a06_without_the_hardware_bug_all_memory_is_usemem() {
    let got = split(96 * GIB, Mig::from_dvsec(Some(0x8001))).expect("is enough");
    assert_eq!((got.usemem.len, got.usemem.bar_size), (96 * GIB, 128 * GIB));
    assert_eq!(got.resmem, None);
    assert_eq!(Mig::from_dvsec(Some(0xfffe)), Mig::NeedsCarveOut);
    assert_eq!(Mig::from_dvsec(None), Mig::NeedsCarveOut);
}

#[test]
fn a06_memory_that_cannot_be_divided_is_refused() {
    for mig in [Mig::Works, Mig::NeedsCarveOut] {
        assert_eq!(split(0, mig), Err(SplitError::NoMemory));
    }
    for bytes in [1, GIB, GIB + 512 * MIB - 1] {
        assert_eq!(
            split(bytes, Mig::NeedsCarveOut),
            Err(SplitError::TooSmall),
            "{bytes}"
        );
    }
    assert_eq!(split(u64::MAX, Mig::Works), Err(SplitError::TooLarge));
}

/// Writes down what is asked of it, and fails at one step.
#[derive(Default)]
struct Recorder {
    fail_at: Option<Step>,
    held: Vec<Step>,
    undone: Vec<Step>,
}

impl Steps for Recorder {
    type Error = &'static str;

    fn run(&mut self, step: Step) -> Result<(), Self::Error> {
        if self.fail_at == Some(step) {
            return Err("no");
        }
        self.held.push(step);
        Ok(())
    }

    fn undo(&mut self, step: Step) {
        assert_eq!(self.held.pop(), Some(step), "undone out of order");
        self.undone.push(step);
    }
}

#[test]
fn a18_opening_that_fails_at_any_step_undoes_exactly_the_steps_before() {
    for (n, step) in STEPS.into_iter().enumerate() {
        let mut recorder = Recorder {
            fail_at: Some(step),
            ..Recorder::default()
        };
        assert_eq!(open(&mut recorder), Err(Failed { step, error: "no" }));
        assert!(recorder.held.is_empty());
        let before: Vec<_> = STEPS[..n].iter().rev().copied().collect();
        assert_eq!(recorder.undone, before);
    }
}

#[test]
fn a18_registers_are_found_before_the_guest_sees_the_device() {
    let mut recorder = Recorder::default();
    assert_eq!(open(&mut recorder), Ok(()));
    let at = |step| recorder.held.iter().position(|held| *held == step);
    assert!(at(Step::MapRegisters) < at(Step::Publish));
    assert!(
        at(Step::Reset) < at(Step::Dma),
        "no DMA of the last owner's"
    );
    close(&mut recorder);
    assert!(recorder.held.is_empty());
}
