//! What can go wrong between a client and the appliance.

use std::fmt;
use std::path::PathBuf;

use api::{Code, Problem};

/// Why a request has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The appliance said no, and why.
    Refused(Problem),
    /// The appliance could not be reached, or the connection broke.
    Unreachable {
        /// Its URL.
        url: String,
        /// What happened.
        why: String,
    },
    /// What answered does not speak the protocol.
    Protocol(String),
    /// A file of ours cannot be used.
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// Something asked for here cannot be.
    Usage(String),
}

impl Error {
    /// Returns the problem's stable code, if the appliance refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Returns whether the appliance refused with `code`.
    pub fn is(&self, code: Code) -> bool {
        self.code() == Some(code.name())
    }

    /// Returns the exit code of a command that ends with this error: 1 failed, 2 usage,
    /// 3 not found, 4 conflict, 5 not authorised, 6 unreachable.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(problem) => match problem.status {
                404 => 3,
                409 | 412 => 4,
                401 | 403 => 5,
                _ => 1,
            },
            Self::Unreachable { .. } => 6,
            Self::Protocol(_) | Self::File { .. } => 1,
            Self::Usage(_) => 2,
        }
    }

    /// Returns what to do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) if !problem.hint.is_empty() => Some(&problem.hint),
            Self::Unreachable { .. } => {
                Some("is the appliance up, and is --url (or SKETE_URL) right?")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) => {
                write!(f, "{}", problem.detail)?;
                for error in &problem.errors {
                    let line = format!("{}: {}", error.pointer, error.detail);
                    if !problem.detail.contains(&line) {
                        write!(f, "\n  {line}")?;
                    }
                }
                Ok(())
            }
            Self::Unreachable { url, why } => write!(f, "{url} cannot be reached: {why}"),
            Self::Protocol(why) => write!(f, "the answer makes no sense: {why}"),
            Self::File { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Usage(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}
