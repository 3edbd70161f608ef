//! ELF executables: the loadable segments and the entry.

use alloc::vec::Vec;

use guest_abi::map::RAM_BASE;
use object::LittleEndian;
use object::elf::{EM_AARCH64, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::plan::{LoadError, Part};

/// What an ELF file says about its loading.
pub(crate) struct Program {
    pub(crate) parts: Vec<Part>,
    pub(crate) entry: u64,
    /// First address past everything loaded or zeroed.
    pub(crate) end: u64,
}

/// Reads the program headers, which must lie within `head`.
///
/// Segments go to their physical addresses (System V ABI, 5: `p_paddr`); those of an
/// executable that was linked for an MMU and says so are where its stub expects them.
pub(crate) fn read(head: &[u8], file_bytes: u64) -> Result<Program, LoadError> {
    const ENDIAN: LittleEndian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(head)
        .map_err(|_| LoadError::Elf("no 64-bit ELF header"))?;
    if !header.is_little_endian() {
        return Err(LoadError::Elf("it is big-endian"));
    }
    if header.e_machine.get(ENDIAN) != EM_AARCH64 {
        return Err(LoadError::Elf("it is for another architecture"));
    }
    let segments = header
        .program_headers(ENDIAN, head)
        .map_err(|_| LoadError::Elf("its program headers are not within the first 64 KiB"))?;

    let entry = header.e_entry.get(ENDIAN);
    let mut program = Program {
        parts: Vec::new(),
        entry,
        end: RAM_BASE,
    };
    let mut entered = None;
    for segment in segments.iter().filter(|s| s.p_type(ENDIAN) == PT_LOAD) {
        let (to, bytes) = (segment.p_paddr(ENDIAN), segment.p_filesz(ENDIAN));
        let (from, memory) = (segment.p_offset(ENDIAN), segment.p_memsz(ENDIAN));
        let past = to.checked_add(memory).filter(|_| to >= RAM_BASE);
        let past = past.ok_or(LoadError::OutsideRam { at: to })?;
        let in_file = from.checked_add(bytes).is_some_and(|end| end <= file_bytes);
        if !in_file || bytes > memory {
            return Err(LoadError::Elf(
                "a segment is larger than the file, it is cut short",
            ));
        }
        let offset = entry.wrapping_sub(segment.p_vaddr(ENDIAN));
        if offset < memory {
            entered = to.checked_add(offset);
        }
        program.end = program.end.max(past);
        if bytes > 0 {
            program.parts.push(Part { from, to, bytes });
        }
    }
    if program.parts.is_empty() {
        return Err(LoadError::Elf("it has nothing to load"));
    }
    // The entry is a virtual address: enter where that byte is loaded.
    program.entry = entered.ok_or(LoadError::Elf("its entry is in none of its segments"))?;
    Ok(program)
}
