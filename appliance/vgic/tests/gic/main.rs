//! The virtual GICv3 against the manual: register by register, hazard by hazard, and at random.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "an oracle or a test that goes wrong must fail, loudly"
)]

mod its;
mod its_spec;
mod machine;
mod madness;
mod model;
mod ops;
mod registers;
mod reliability;
mod smoke;
mod spec;
