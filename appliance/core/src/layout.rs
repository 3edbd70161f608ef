//! Where the linker put things.
#![expect(unsafe_code, reason = "linker symbols are extern statics")]

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __stacks_start: u8;
    static __image_end: u8;
    static el2_vectors: u8;
    static secondary_entry: u8;
}

macro_rules! symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name() -> u64 {
            (&raw const $symbol) as u64
        }
    )*};
}

symbols! {
    /// First VA of core's image: its text.
    image_start = __image_start;
    /// First VA past the text.
    text_end = __text_end;
    /// First VA past the constants.
    rodata_end = __rodata_end;
    /// First VA of the cores' stacks.
    stacks_start = __stacks_start;
    /// First VA past the image; the bundle lies here.
    image_end = __image_end;
    /// EL2's exception vectors.
    vectors = el2_vectors;
    /// Where PSCI starts other cores, as a VA.
    secondary = secondary_entry;
}
