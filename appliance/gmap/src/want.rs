//! What a fault wants: the steps between looking and linking.
//!
//! [`crate::Gmap::look`] says what is missing, whoever holds no lock makes it, and a link puts
//! it in. [`settle`] is that loop, for gmap's own callers and for core, which lets go of the
//! VM's lock in between.

use crate::fault::{Fault, FaultError};
use crate::level::Level;
use crate::machine::Machine;
use crate::sequence::Ticket;
use crate::walk::WalkError;
use arch::{Ipa, Pa};

/// What [`crate::Gmap::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The access works now, or should be tried again.
    Done,
    /// A frame is missing.
    Missing(Want),
    /// The page was written and is shared: a frame with a copy is missing.
    Shared(Want),
    /// The page was read, and the machine's zeroes are to be shown: nothing is missing but
    /// the entry ([`crate::Gmap::link_zeroes`]).
    Zeroes(Want),
    /// The page was written while it moves to another frame: nothing is missing, but
    /// [`crate::Gmap::help`] comes first, or [`crate::Gmap::let_go`], which makes the move void.
    Held(Want),
}

impl Look {
    /// Returns what is wanted, if anything.
    pub fn want(self) -> Option<Want> {
        match self {
            Self::Done => None,
            Self::Missing(want) | Self::Shared(want) | Self::Zeroes(want) | Self::Held(want) => {
                Some(want)
            }
        }
    }

    /// Asks for the next smaller leaf instead.
    fn smaller(self) -> Option<Self> {
        let want = self.want()?.smaller()?;
        Some(match self {
            Self::Done => Self::Done,
            Self::Missing(_) => Self::Missing(want),
            Self::Shared(_) => Self::Shared(want),
            Self::Zeroes(_) => Self::Zeroes(want),
            Self::Held(_) => Self::Held(want),
        })
    }
}

/// Looks, and supplies what is missing, until the access works: smaller leaves where there is
/// no memory for larger ones, and anew where the world has moved on.
///
/// After `looks` looks it is left to the guest to try again. `supply` never sees
/// [`Look::Done`].
pub fn settle<C>(
    context: &mut C,
    looks: usize,
    mut look: impl FnMut(&mut C) -> Result<Look, FaultError>,
    mut supply: impl FnMut(&mut C, Look) -> Result<(), LinkError>,
) -> Result<Fault, FaultError> {
    for _ in 0..looks {
        let mut now = look(context)?;
        while let Some(want) = now.want() {
            let order = want.order();
            match supply(context, now) {
                Ok(()) => return Ok(Fault::Mapped { order }),
                Err(LinkError::Again) => break,
                Err(LinkError::Later) => return Ok(Fault::AlreadyMapped),
                Err(LinkError::NoMemory | LinkError::Limit) => {
                    now = now.smaller().ok_or(FaultError::OutOfMemory)?;
                }
            }
        }
        if now == Look::Done {
            break;
        }
    }
    Ok(Fault::AlreadyMapped)
}

/// A frame that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the guest waits for it"]
pub struct Want {
    pub(crate) ipa: Ipa,
    pub(crate) level: Level,
    pub(crate) ticket: Ticket,
    /// The shared frame that the page at `ipa` shows, or is to show.
    pub(crate) from: Option<Pa>,
    /// It holds the machine's zeroes: a copy of it need not be read.
    pub(crate) zeroes: bool,
}

impl Want {
    /// Returns the pool order of the frame: `4096 << order` bytes.
    pub fn order(&self) -> u8 {
        self.level.order()
    }

    /// Returns the first address it will be mapped at.
    pub fn ipa(&self) -> Ipa {
        self.ipa.align_down(self.level.span())
    }

    /// Asks for the next smaller frame instead.
    pub fn smaller(&self) -> Option<Self> {
        let level = self.level.below()?;
        Some(Self { level, ..*self })
    }

    /// Returns the shared frame that is shown, or is to be copied; `None` if there is none.
    pub fn from(&self) -> Option<Pa> {
        Some(self.from?.align_down(self.level.span()))
    }

    /// Returns whether the content of the frame is zeroes, and need not be copied.
    pub fn is_zeroes(&self) -> bool {
        self.zeroes || self.from.is_none()
    }

    /// Takes a frame and fills it with what is wanted.
    ///
    /// May run without any lock: should what is copied have gone meanwhile, the frame is
    /// refused.
    pub fn prepare(&self, machine: &mut impl Machine) -> Option<Pa> {
        let Some(from) = self.from().filter(|_| !self.is_zeroes()) else {
            return machine.alloc_zeroed(self.order());
        };
        let frame = machine.alloc(self.order())?;
        machine.copy(frame, from, self.order());
        Some(frame)
    }
}

/// Why a frame was not linked. It is still the caller's, and nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// What was seen by [`crate::Gmap::look`] is no longer so: look again.
    Again,
    /// What is missing is being made, and something else comes first: the guest tries again
    /// until it is whole.
    Later,
    /// The cache has fewer pages than [`crate::Gmap::link_cost`]: top it up.
    NoMemory,
    /// The VM has all the memory or tables it may.
    Limit,
}

impl From<WalkError> for LinkError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NoMemory => Self::NoMemory,
            WalkError::TableLimit => Self::Limit,
            WalkError::AddressSize
            | WalkError::Hole(_)
            | WalkError::BadLevel
            | WalkError::LargerLeaf
            | WalkError::NotPresent
            | WalkError::Busy => Self::Again,
        }
    }
}
