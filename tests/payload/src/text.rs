//! A string of bounded length, for messages without an allocator.

use core::fmt;

/// At most `N` bytes of text; what does not fit is dropped.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// Creates an empty text.
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// Formats `args` into a new text.
    pub fn from_args(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        // `write_str` below never fails, and a Debug that does loses its own output only.
        let _ = fmt::write(&mut text, args);
        text
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // A character cut at the end makes the rest invalid: show what is before it.
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default())
                    .unwrap_or_default()
            }
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(s.as_bytes()) {
            *to = *from;
            self.len += 1;
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_at_a_character() {
        assert_eq!(
            Text::<4>::from_args(format_args!("{}", 12345)).as_str(),
            "1234"
        );
        assert_eq!(Text::<4>::from_args(format_args!("abcä")).as_str(), "abc");
        assert_eq!(Text::<0>::from_args(format_args!("x")).as_str(), "");
    }
}
