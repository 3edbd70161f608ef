//! An ELF file as memory will hold it.

use crate::{Error, Which};
use object::elf::{
    DT_RELA, DT_RELASZ, EM_AARCH64, FileHeader64, PT_DYNAMIC, PT_LOAD, ProgramHeader64,
    R_AARCH64_NONE, R_AARCH64_RELATIVE, RelocationType,
};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

/// Most bytes that one file may span in memory.
pub(crate) const MEMORY_MAX: usize = 256 << 20;

type Header = FileHeader64<Endianness>;
type Segment = ProgramHeader64<Endianness>;
const LE: Endianness = Endianness::Little;

/// The loaded segments, laid out from the lowest address.
pub(crate) struct Flat<'a> {
    /// Core or root.
    pub(crate) which: Which,
    /// Bytes from the lowest address to the last one that is in the file.
    pub(crate) data: Vec<u8>,
    /// The lowest address.
    pub(crate) load_address: u64,
    /// Bytes from the lowest address to the last one, bss included.
    pub(crate) memory_bytes: usize,
    /// Address of the first instruction.
    pub(crate) entry: u64,
    file: ElfFile64<'a, Endianness>,
}

impl<'a> Flat<'a> {
    /// Lays out `elf`, and applies its relative relocations for the addresses at which it
    /// was linked: a position-independent file then runs there without a loader.
    pub(crate) fn load(which: Which, elf: &'a [u8]) -> Result<Self, Error> {
        let file = ElfFile64::<Endianness>::parse(elf)
            .map_err(|why| Error::NotElf(which, why.to_string()))?;
        let header: &Header = file.elf_header();
        if header.endian() != Ok(LE) || header.e_machine(LE) != EM_AARCH64 {
            return Err(Error::WrongMachine(which));
        }
        let bad = || Error::BadSegments(which);
        let mut segments: Vec<&Segment> = file
            .elf_program_headers()
            .iter()
            .filter(|segment| segment.p_type(LE) == PT_LOAD && segment.p_memsz(LE) != 0)
            .collect();
        segments.sort_by_key(|segment| segment.p_vaddr(LE));
        let first = segments.first().ok_or(Error::Empty(which))?;
        let load_address = first.p_vaddr(LE);

        let (mut data, mut memory_bytes) = (Vec::new(), 0);
        for segment in segments {
            let distance = segment.p_vaddr(LE).checked_sub(load_address);
            let start = distance.and_then(index).ok_or_else(bad)?;
            let end = index(segment.p_memsz(LE)).and_then(|bytes| start.checked_add(bytes));
            let end = end.filter(|end| *end <= MEMORY_MAX).ok_or_else(bad)?;
            let bytes = segment.data(LE, elf).map_err(|()| bad())?;
            if start < memory_bytes || segment.p_memsz(LE) < segment.p_filesz(LE) {
                return Err(bad());
            }
            memory_bytes = end;
            if !bytes.is_empty() {
                data.resize(start, 0);
                data.extend(bytes);
            }
        }
        let entry = header.e_entry(LE);
        let inside = |at: u64| at.checked_sub(load_address).and_then(index);
        if inside(entry).is_none_or(|offset| offset >= data.len()) {
            return Err(Error::BadEntry(which));
        }
        let mut flat = Self {
            which,
            data,
            load_address,
            memory_bytes,
            entry,
            file,
        };
        flat.relocate()?;
        Ok(flat)
    }

    /// Returns the address of symbol `name`.
    pub(crate) fn symbol(&self, name: &str) -> Option<u64> {
        let symbols = self.file.symbols();
        let mut named = symbols.filter(|symbol| symbol.name() == Ok(name));
        Some(named.next()?.address())
    }

    /// Applies the `DT_RELA` table (System V ABI, and ELF for the Arm 64-bit Architecture).
    fn relocate(&mut self) -> Result<(), Error> {
        let bad = Error::BadRelocation(self.which);
        let (mut table, mut bytes) = (None, 0);
        for segment in self.file.elf_program_headers() {
            if segment.p_type(LE) != PT_DYNAMIC {
                continue;
            }
            let dynamic = segment.dynamic(LE, self.file.data());
            for entry in dynamic.ok().flatten().unwrap_or_default() {
                match entry.d_tag.get(LE) {
                    DT_RELA => table = Some(entry.d_val.get(LE)),
                    DT_RELASZ => bytes = entry.d_val.get(LE),
                    _ => {}
                }
            }
        }
        let Some(table) = table else {
            return Ok(());
        };
        let relocations = self
            .slice(table, bytes)
            .ok_or_else(|| bad.clone())?
            .to_vec();
        let (relocations, _) = relocations.as_chunks::<24>();
        for relocation in relocations {
            let word = |n| le64(relocation, n);
            match RelocationType(le32(relocation, 8)) {
                R_AARCH64_NONE => {}
                R_AARCH64_RELATIVE => {
                    let value = word(2).to_le_bytes();
                    self.store(word(0), value).ok_or_else(|| bad.clone())?;
                }
                _ => return Err(bad),
            }
        }
        Ok(())
    }

    fn slice(&self, address: u64, bytes: u64) -> Option<&[u8]> {
        let start = index(address.checked_sub(self.load_address)?)?;
        self.data.get(start..start.checked_add(index(bytes)?)?)
    }

    fn store(&mut self, address: u64, value: [u8; 8]) -> Option<()> {
        let start = index(address.checked_sub(self.load_address)?)?;
        let to = self.data.get_mut(start..)?.first_chunk_mut::<8>()?;
        *to = value;
        Some(())
    }
}

fn index(value: u64) -> Option<usize> {
    usize::try_from(value).ok()
}

/// Reads little-endian word `n` of a relocation.
fn le64(raw: &[u8; 24], n: usize) -> u64 {
    let (words, _) = raw.as_chunks::<8>();
    words.get(n).copied().map_or(0, u64::from_le_bytes)
}

/// Reads the little-endian word at byte `at` of a relocation.
fn le32(raw: &[u8; 24], at: usize) -> u32 {
    let word = raw.get(at..).and_then(|rest| rest.first_chunk::<4>());
    word.copied().map_or(0, u32::from_le_bytes)
}
