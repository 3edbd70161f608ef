//! What the server has the hypervisor keep beyond its own life: a note for each VM and each
//! image, and one about itself.
//!
//! A note is JSON, by what it is about. One that cannot be read, of another version, or with
//! contents that the server would not have written is none: the VM that it was about is found in
//! the hypervisor all the same, and an image is uploaded again.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use api::limits::{CPUS_MAX, CPUS_MIN, IMAGES_MAX, VMS_MAX};
use api::{ImageSpec, LastError, VmSpec, names};
use serde::{Deserialize, Serialize};

use crate::heritage::Extent;

/// Notes that the server can have.
pub const NOTES: usize = 1 + VMS_MAX + IMAGES_MAX;
/// Most bytes of a note.
pub const NOTE_BYTES_MAX: usize = 16384;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A note as it lies there.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    about: About,
}

/// What a note is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum About {
    Server(ServerNote),
    Image(ImageNote),
    Vm(Box<VmNote>),
}

/// The server itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerNote {
    pub(crate) token_sha256: [u8; 32],
}

/// A whole image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageNote {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) spec: ImageSpec,
    pub(crate) created_at: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
    /// Where it lies.
    pub(crate) extents: Vec<Extent>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VmNote {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) spec: VmSpec,
    pub(crate) generation: u64,
    pub(crate) created_at: Option<String>,
    pub(crate) phase: PhaseNote,
    pub(crate) then: ThenNote,
    /// What the hypervisor calls it, if it has one.
    pub(crate) handle: Option<u64>,
    pub(crate) reason: String,
    pub(crate) last_error: Option<LastError>,
    pub(crate) starts: u64,
    pub(crate) started_at: Option<String>,
    pub(crate) started_ns: u64,
    pub(crate) stopped_at: Option<String>,
    /// Bytes that it had printed when its run began, and when this was written.
    pub(crate) console_base: u64,
    pub(crate) console_end: u64,
}

/// What a VM was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PhaseNote {
    Stopped,
    Crashed,
    Failed,
    Starting,
    Running,
    Stopping,
    Releasing,
    Pausing,
}

/// What was to come after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ThenNote {
    Stopped,
    Crashed,
    Failed,
    Restart,
    Delete,
}

/// What the next server does about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// It does nothing, and did nothing.
    Rest,
    /// It runs, or has ended by itself.
    Watch,
    /// It is stopped, if it is not yet, and what was to come comes.
    End,
    /// It was never started: it is taken away, and started anew.
    Begin,
    /// There is nothing of it any more: what was to come comes.
    Go,
    /// It ran, and there is nothing of it any more.
    Lost,
    /// It waits for its next run.
    Pause,
}

/// What the hypervisor has of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// Nothing.
    Nothing,
    /// A VM that was never started.
    Built,
    /// A VM that runs, or has run.
    Started,
}

/// Says what becomes of a VM that did this when the last server ended.
pub(crate) const fn outlook(phase: PhaseNote, there: There) -> Outlook {
    use PhaseNote::{Crashed, Failed, Pausing, Releasing, Running, Starting, Stopped, Stopping};
    match (phase, there) {
        (Stopped | Crashed | Failed, _) => Outlook::Rest,
        (Pausing, _) => Outlook::Pause,
        (Starting, There::Built | There::Nothing) => Outlook::Begin,
        (Starting | Running, There::Started) => Outlook::Watch,
        // It was not told, which can only be if the note is not what the server wrote.
        (Running, There::Built) => Outlook::End,
        (Running, There::Nothing) => Outlook::Lost,
        (Stopping | Releasing, There::Nothing) => Outlook::Go,
        (Stopping | Releasing, There::Built | There::Started) => Outlook::End,
    }
}

/// Writes a note, if it fits.
pub(crate) fn write(about: About) -> Option<Vec<u8>> {
    let note = Note {
        version: VERSION,
        about,
    };
    let bytes = serde_json::to_vec(&note).ok()?;
    (bytes.len() <= NOTE_BYTES_MAX).then_some(bytes)
}

/// Reads a note, if it is one.
pub(crate) fn read(bytes: &[u8]) -> Option<About> {
    if bytes.len() > NOTE_BYTES_MAX {
        return None;
    }
    let note: Note = serde_json::from_slice(bytes).ok()?;
    let good = note.version == VERSION
        && match &note.about {
            About::Server(_) => true,
            About::Image(image) => names::is_valid(&image.name) && image.bytes > 0,
            About::Vm(vm) => {
                names::is_valid(&vm.name) && (CPUS_MIN..=CPUS_MAX).contains(&vm.spec.cpus)
            }
        };
    good.then_some(note.about)
}

/// Returns how much a guest has printed, of which the ring counts only the last 32 bits since
/// its run began.
pub(crate) const fn printed(base: u64, end: u64, taken: u32) -> u64 {
    const WRAP: u64 = 1 << 32;
    let least = base.wrapping_add(taken as u64);
    let missing = end.saturating_sub(least);
    least.saturating_add(missing.div_ceil(WRAP).saturating_mul(WRAP))
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a test that panics has failed"
)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use api::{Boot, ImageKind};
    use proptest::prelude::*;

    fn vm(name: &str, cmdline: &str) -> VmNote {
        VmNote {
            name: name.to_string(),
            uuid: "3f0c".to_string(),
            spec: VmSpec {
                cpus: 2,
                memory_bytes: 64 << 20,
                boot: Boot {
                    kernel: Some("linux".to_string()),
                    cmdline: cmdline.to_string(),
                    ..Boot::default()
                },
                ..VmSpec::default()
            },
            generation: 3,
            created_at: None,
            phase: PhaseNote::Running,
            then: ThenNote::Stopped,
            handle: Some(7 << 32 | 3),
            reason: "requested".to_string(),
            last_error: None,
            starts: 2,
            started_at: None,
            started_ns: 5,
            stopped_at: None,
            console_base: 10,
            console_end: 20,
        }
    }

    #[test]
    fn a_vm_with_the_longest_command_line_fits_whatever_is_in_it() {
        let about = About::Vm(Box::new(vm(
            "web",
            &"\u{1}".repeat(api::limits::CMDLINE_MAX),
        )));
        let bytes = write(about.clone()).expect("fits");
        assert_eq!(read(&bytes), Some(about));
    }

    #[test]
    fn an_image_in_as_many_pieces_as_can_be_fits_or_is_refused() {
        let image = |pieces: u64| {
            About::Image(ImageNote {
                name: "linux".to_string(),
                uuid: "9".to_string(),
                spec: ImageSpec {
                    kind: ImageKind::Kernel,
                    size_bytes: None,
                },
                created_at: None,
                bytes: pieces << 21,
                sha256: [255; 32],
                extents: (0..pieces)
                    .map(|n| Extent {
                        pa: n << 22,
                        order: 9,
                        count: 1,
                    })
                    .collect(),
            })
        };
        // 512 MiB in pieces that never touch.
        assert!(write(image(256)).is_some());
        assert_eq!(write(image(4096)), None);
    }

    #[test]
    fn other_versions_and_impossible_contents_are_no_notes() {
        let bytes = write(About::Vm(Box::new(vm("web", "")))).expect("fits");
        let text = std::str::from_utf8(&bytes).expect("JSON");
        assert!(read(text.as_bytes()).is_some());
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"web\"", "\"We b\""),
            ("\"cpus\":2", "\"cpus\":9"),
            ("\"cpus\":2", "\"cpus\":0"),
            ("Running", "Flying"),
            ("}", ""),
        ] {
            assert!(text.contains(from), "{text}");
            let changed = text.replace(from, to);
            assert_eq!(read(changed.as_bytes()), None, "{to}");
        }
        assert_eq!(read(&vec![b' '; NOTE_BYTES_MAX + 1]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_note(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(read(&bytes), None);
        }

        /// A note with any byte changed is either none or a note that the rules allow.
        #[test]
        fn a_damaged_note_never_names_what_cannot_be(at in 0..400_usize, byte in any::<u8>()) {
            let mut bytes = write(About::Vm(Box::new(vm("web", "console=ttyAMA0")))).expect("fits");
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Some(About::Vm(vm)) = read(&bytes) {
                prop_assert!(names::is_valid(&vm.name) && (1..=8).contains(&vm.spec.cpus));
            }
        }

        /// The position in a console is found again however often the ring's count has wrapped.
        #[test]
        fn a_console_goes_on_where_it_was(
            base in 0..1_u64 << 40, printed_since in 0..1_u64 << 40, noted in 0..1_u64 << 32,
        ) {
            let now = base + printed_since;
            let noted = now.saturating_sub(noted % (1 << 32)).max(base);
            let taken = (printed_since & 0xffff_ffff) as u32;
            prop_assert_eq!(printed(base, noted, taken), now);
        }
    }
}
