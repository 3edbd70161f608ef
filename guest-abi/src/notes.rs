//! What core keeps for root beyond root's own life: notes, of which core knows no more than how
//! long they are ([`crate::core_call::CoreCall::NoteWrite`]).

/// Notes that core keeps: for each VM and each image there can be one, and some more.
pub const NOTES_MAX: usize = 160;
/// Most bytes of a note.
pub const NOTE_BYTES_MAX: usize = 16384;
