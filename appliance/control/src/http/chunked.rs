//! The chunked transfer coding (RFC 9112, 7.1), received.
//!
//! Chunk extensions and trailers are read and ignored, as the RFC asks, but bounded.

/// Most bytes of a chunk-size line with its extensions, and of one trailer line.
const LINE_MAX: usize = 256;
/// Most bytes of the trailer section.
const TRAILERS_MAX: usize = 4096;

/// Why a chunked body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk(pub(crate) &'static str);

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Framing bytes only, or nothing.
    More,
    /// The next this many bytes of the input are data; call [`Chunked::data_taken`].
    Data(usize),
    /// The body is over.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a size; how many there were.
    Size(u32),
    /// In a chunk extension.
    Extension,
    /// After the CR of a size line.
    SizeLf,
    /// In data, with `left` bytes to come.
    Data,
    /// After data: CR is due.
    DataCr,
    /// After data and CR.
    DataLf,
    /// At the start of a trailer line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the empty line that ends the body.
    EndLf,
    /// Over.
    Done,
}

/// Reads a chunked body.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    left: u64,
    line: usize,
    trailers: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size(0),
            left: 0,
            line: 0,
            trailers: 0,
        }
    }
}

impl Chunked {
    /// Reads framing up to the next data or the end. Returns how many bytes of framing
    /// were taken, and what comes then.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<(usize, Step), BadChunk> {
        let mut taken = 0usize;
        loop {
            match self.state {
                State::Data if self.left > 0 => {
                    let rest = input.len().saturating_sub(taken);
                    let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                    let step = if here == 0 {
                        Step::More
                    } else {
                        Step::Data(here)
                    };
                    return Ok((taken, step));
                }
                State::Data => self.state = State::DataCr,
                State::Done => return Ok((taken, Step::End)),
                _ => match input.get(taken) {
                    None => return Ok((taken, Step::More)),
                    Some(byte) => {
                        taken = taken.saturating_add(1);
                        self.state = self.next(*byte)?;
                    }
                },
            }
        }
    }

    /// Says that `bytes` of the data that [`Step::Data`] announced were used.
    pub(crate) fn data_taken(&mut self, bytes: usize) {
        self.left = self
            .left
            .saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    fn next(&mut self, byte: u8) -> Result<State, BadChunk> {
        match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() => {
                // 15 digits cannot overflow; longer sizes are attacks.
                if digits >= 15 {
                    return Err(BadChunk("a chunk size has more than 15 digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size(digits.saturating_add(1)))
            }
            (State::Size(0), _) => Err(BadChunk("a chunk size is not hexadecimal")),
            (State::Size(_) | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size(_), b';' | b' ' | b'\t') => {
                self.line = 0;
                Ok(State::Extension)
            }
            (State::Size(_), _) => Err(BadChunk("a chunk size is not hexadecimal")),
            (State::Extension | State::Trailer, b'\n') => {
                Err(BadChunk("a line ends in LF without CR"))
            }
            (State::Extension, _) => {
                self.lengthen()?;
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::TrailerStart),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr, _) => Err(BadChunk("a chunk is longer than its size says")),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart, b'\n') => Err(BadChunk("a line ends in LF without CR")),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerStart | State::Trailer, _) => {
                if self.state == State::TrailerStart {
                    self.line = 0;
                }
                self.lengthen()?;
                self.trailers = self.trailers.saturating_add(1);
                if self.trailers > TRAILERS_MAX {
                    return Err(BadChunk("the trailer section is too long"));
                }
                Ok(State::Trailer)
            }
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') | (State::Done | State::Data, _) => Ok(State::Done),
            (State::SizeLf | State::DataLf | State::TrailerLf | State::EndLf, _) => {
                Err(BadChunk("a CR is not followed by LF"))
            }
        }
    }

    fn lengthen(&mut self) -> Result<(), BadChunk> {
        self.line = self.line.saturating_add(1);
        if self.line > LINE_MAX {
            return Err(BadChunk("a line of a chunked body is too long"));
        }
        Ok(())
    }
}
