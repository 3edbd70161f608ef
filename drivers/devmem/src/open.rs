//! Assigning a device, a step at a time; a step that fails leaves nothing of the others.

/// What assigning a device consists of, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody else may have the function from here on.
    Claim,
    /// It is brought to D0, and bus mastering is off.
    PowerUp,
    /// The registers that tell of readiness get their place in core's own tables. Never later:
    /// a fault has no memory to take.
    MapRegisters,
    /// It is reset, so that nothing of its last owner is left.
    Reset,
    /// The SMMU lets it reach its VM's memory and nothing else, or the owner has said that it
    /// may do without.
    Dma,
    /// Its interrupt goes to the VM.
    Interrupt,
    /// The VM sees it.
    Publish,
}

/// The steps in order.
pub const STEPS: [Step; 7] = [
    Step::Claim,
    Step::PowerUp,
    Step::MapRegisters,
    Step::Reset,
    Step::Dma,
    Step::Interrupt,
    Step::Publish,
];

/// Who can do and undo the steps.
pub trait Steps {
    /// Why a step can fail.
    type Error;
    /// Does a step.
    ///
    /// # Errors
    /// Its own; then nothing of this step is left.
    fn run(&mut self, step: Step) -> Result<(), Self::Error>;
    /// Undoes a step that was done. Cannot fail.
    fn undo(&mut self, step: Step);
}

/// A step that failed, all earlier ones undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed<E> {
    /// Which.
    pub step: Step,
    /// Why.
    pub error: E,
}

/// Does all steps, or none.
///
/// # Errors
/// The first that failed; those before it are undone, last first.
pub fn open<S: Steps>(steps: &mut S) -> Result<(), Failed<S::Error>> {
    for (n, step) in STEPS.into_iter().enumerate() {
        if let Err(error) = steps.run(step) {
            for done in STEPS.into_iter().take(n).rev() {
                steps.undo(done);
            }
            return Err(Failed { step, error });
        }
    }
    Ok(())
}

/// Undoes all steps, last first.
pub fn close<S: Steps>(steps: &mut S) {
    for step in STEPS.into_iter().rev() {
        steps.undo(step);
    }
}
