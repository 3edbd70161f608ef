//! `cargo xtask stack`: how deep core's stack can get, read from the program itself.
//!
//! Every function's frame is what its instructions take from SP; who calls whom is in its
//! branches. A call through a pointer is not followed but bounded: it may lead to any function
//! whose address is taken, and such calls nest [`NESTED`] deep (core's formatting: a line, a
//! value in it, that value's writer). The bound is too large rather than too small. Recursion is
//! refused, but for what is known to end ([`RECURSIVE`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::build;

/// Bytes of a core's stack (`boot/entry/link.ld`), its guard page left out.
const STACK_BYTES: u64 = 0x1_0000 - 0x1000;
/// The most that core may use of it, in per cent.
const MOST_PERCENT: u64 = 50;
/// Calls through a pointer within calls through a pointer.
const NESTED: usize = 3;
/// Where core is entered: by the vectors, and at boot.
const ENTRIES: [&str; 8] = [
    "exit_sync",
    "exit_irq",
    "exit_fiq",
    "exit_serror",
    "exit_aarch32",
    "guarded_exception",
    "core_main",
    "core_secondary",
];
/// What ends core: it runs on what is left, or on a stack of its own, and never returns.
const ENDS: [&str; 2] = ["panic", "rust_begin_unwind"];

/// Functions that call themselves, and how deep at the most.
const RECURSIVE: [(&str, u64); 3] = [
    // What a device reaches leaves its own tables before the VM's: a space whose machine tells
    // nobody (`Stage2::view`).
    ("Gmap$GT$7replace", 2),
    // The device tree, at boot: `boot_info::DEPTH_MAX`, and one that is deeper is refused.
    ("boot_info4walk", 24),
    ("3fdt4node", 24),
];

/// A function as its instructions show it.
#[derive(Debug, Default)]
struct Function {
    name: String,
    frame: u64,
    calls: BTreeSet<u64>,
    /// It calls through a pointer.
    indirect: bool,
    /// It takes an amount from SP that is not in the instruction.
    unknown: bool,
}

/// Prints the deepest stack of each entry; fails if one is too deep.
pub(crate) fn check() -> Result<()> {
    let path = build::core_elf();
    let file = fs::read(&path)
        .with_context(|| format!("{}: run `cargo xtask build` first", path.display()))?;
    let program = Program::read(&file)?;
    let mut deepest = 0;
    for entry in ENTRIES {
        let Some(at) = program.find(entry) else {
            bail!("core has no function {entry}");
        };
        let (bytes, path) = program.depth(at)?;
        println!("{bytes:>6} bytes  {entry}: {}", path.join(" > "));
        deepest = deepest.max(bytes);
    }
    let percent = deepest * 100 / STACK_BYTES;
    println!("deepest: {deepest} of {STACK_BYTES} bytes, {percent} %");
    ensure!(
        percent < MOST_PERCENT,
        "core may use {percent} % of its stack; {MOST_PERCENT} % is the limit"
    );
    Ok(())
}

/// All functions, by address.
#[derive(Debug, Default)]
struct Program {
    functions: BTreeMap<u64, Function>,
    /// Functions whose address is taken.
    taken: BTreeSet<u64>,
    /// Where each name is: functions that are alike share one address.
    names: BTreeMap<String, u64>,
}

/// Bytes below a function, and the names on the way.
type Depth = (u64, Vec<String>);

impl Program {
    fn read(file: &[u8]) -> Result<Self> {
        let elf = object::File::parse(file).context("core is no ELF file")?;
        let (mut spans, mut names) = (BTreeMap::new(), BTreeMap::new());
        for symbol in elf.symbols().filter(|s| s.kind() == SymbolKind::Text) {
            let name = symbol.name().unwrap_or("?");
            if symbol.size() > 0 && !name.starts_with('$') {
                spans.insert(symbol.address(), (symbol.size(), name.to_owned()));
                names.insert(name.to_owned(), symbol.address());
            }
        }
        let mut program = Self {
            names,
            ..Self::default()
        };
        let mut words = BTreeSet::new();
        for section in elf.sections() {
            let data = section.data().unwrap_or_default();
            // What is not loaded, debug information above all, holds no pointers of the program.
            if section.address() == 0 {
                continue;
            }
            if section.kind() != object::SectionKind::Text {
                // Addresses in tables: a value of eight bytes that is a function's.
                let (chunks, _) = data.as_chunks::<8>();
                words.extend(chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)));
                continue;
            }
            let start = section.address();
            for (&address, (size, name)) in spans.range(start..start + section.size()) {
                let from = usize::try_from(address - start)?;
                let code = data
                    .get(from..)
                    .and_then(|code| code.get(..usize::try_from(*size).ok()?));
                let code = code.with_context(|| format!("{name} is not in its section"))?;
                let (chunks, _) = code.as_chunks::<4>();
                let code = chunks.iter().map(|chunk| u32::from_le_bytes(*chunk));
                let (function, pointers) = decode(address, name, code);
                words.extend(pointers);
                program.functions.insert(address, function);
            }
        }
        // A relocation of a position-independent table holds its value as the addend.
        if let Some(relocations) = elf.dynamic_relocations() {
            words.extend(relocations.map(|(_, r)| r.addend().cast_unsigned()));
        }
        // The vectors and boot enter by branches, whatever else has their address.
        let entries: Vec<u64> = ENTRIES
            .iter()
            .filter_map(|name| program.find(name))
            .collect();
        let is_taken = |w: &u64| program.functions.contains_key(w) && !entries.contains(w);
        let taken = words.into_iter().filter(is_taken).collect();
        program.taken = taken;
        Ok(program)
    }

    fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// The deepest stack from the function at `at` on.
    fn depth(&self, at: u64) -> Result<Depth> {
        // What a call through a pointer costs at the most, from the innermost out.
        let mut pointer: Depth = (0, Vec::new());
        let mut all = BTreeMap::new();
        for _ in 0..=NESTED {
            all.clear();
            let mut worst: Depth = (0, Vec::new());
            for target in &self.taken {
                let found = self.walk(*target, &pointer, &mut Vec::new(), &mut all)?;
                if found.0 > worst.0 {
                    worst = found;
                }
            }
            let found = self.walk(at, &pointer, &mut Vec::new(), &mut all)?;
            if worst.0 == pointer.0 {
                return Ok(found);
            }
            pointer = worst;
        }
        all.clear();
        self.walk(at, &pointer, &mut Vec::new(), &mut all)
    }

    fn walk(
        &self,
        at: u64,
        pointer: &Depth,
        path: &mut Vec<u64>,
        all: &mut BTreeMap<u64, Depth>,
    ) -> Result<Depth> {
        if let Some(known) = all.get(&at) {
            return Ok(known.clone());
        }
        // A call into the middle of a function, or out of the program, is assembly's.
        let Some(function) = self.functions.get(&at) else {
            return Ok((0, Vec::new()));
        };
        let is_end = |end: &&str| function.name.contains(*end);
        if ENDS.iter().any(is_end) {
            return Ok((0, Vec::new()));
        }
        if path.contains(&at) {
            let known = RECURSIVE
                .iter()
                .find(|(name, _)| function.name.contains(name));
            let Some((_, times)) = known else {
                let name = |at| self.functions.get(at).map_or("?", |f| f.name.as_str());
                let way: Vec<_> = path
                    .iter()
                    .skip_while(|f| **f != at)
                    .map(name)
                    .map(short)
                    .collect();
                bail!("{} calls itself: {}", function.name, way.join(" > "));
            };
            // Once for each time but the one that is being counted, with all that lies between.
            let between = path.iter().skip_while(|f| **f != at);
            let frames = between.filter_map(|f| Some(self.functions.get(f)?.frame));
            return Ok((frames.sum::<u64>() * (times - 1), vec!["…".to_owned()]));
        }
        ensure!(
            !function.unknown,
            "{}: a frame of unknown size",
            function.name
        );
        path.push(at);
        let mut below = if function.indirect {
            pointer.clone()
        } else {
            (0, Vec::new())
        };
        for call in &function.calls {
            let found = self.walk(*call, pointer, path, all)?;
            if found.0 > below.0 {
                below = found;
            }
        }
        path.pop();
        below.0 += function.frame;
        let frame = function.frame;
        below
            .1
            .insert(0, format!("{} {frame}", short(&function.name)));
        all.insert(at, below.clone());
        Ok(below)
    }
}

/// The last parts of a mangled name, for people.
fn short(name: &str) -> String {
    let name = addr2line::demangle_auto(name.into(), None).into_owned();
    let name = name.split("::h").next().unwrap_or(&name);
    let parts: Vec<&str> = name.rsplit("::").take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("::")
}

/// Reads a function's instructions: its frame, its calls, and addresses it makes (ADRP and ADD).
fn decode(address: u64, name: &str, code: impl Iterator<Item = u32>) -> (Function, Vec<u64>) {
    let mut function = Function {
        name: name.to_owned(),
        ..Function::default()
    };
    let code: Vec<u32> = code.collect();
    let end = address + 4 * code.len() as u64;
    let mut pointers = Vec::new();
    // An address is made by an ADRP and, soon after, an ADD to the same register.
    let mut pages = [(0_u64, 0_u64); 32];
    for (pc, word) in (address..).step_by(4).zip(code) {
        match Instruction::decode(pc, word) {
            Instruction::Takes(bytes) => function.frame += bytes,
            Instruction::TakesUnknown => function.unknown = true,
            Instruction::Call(to) => {
                function.calls.insert(to);
            }
            Instruction::Branch(to) if !(address..end).contains(&to) => {
                function.calls.insert(to);
            }
            Instruction::CallPointer => function.indirect = true,
            Instruction::Page(register, page) => {
                if let Some(known) = pages.get_mut(register) {
                    *known = (page, pc);
                }
            }
            Instruction::Address(to) => pointers.push(to),
            Instruction::Add(register, imm) => {
                let (page, at) = pages.get(register).copied().unwrap_or((0, 0));
                if at != 0 && pc - at <= 16 {
                    pointers.push(page.wrapping_add(imm));
                }
            }
            Instruction::Branch(_) | Instruction::Other => {}
        }
    }
    (function, pointers)
}

/// What matters of an instruction (DDI 0487, C4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    Takes(u64),
    TakesUnknown,
    Call(u64),
    Branch(u64),
    CallPointer,
    /// ADRP: register and page.
    Page(usize, u64),
    /// ADR.
    Address(u64),
    /// ADD (immediate): source register and immediate.
    Add(usize, u64),
    Other,
}

impl Instruction {
    fn decode(pc: u64, word: u32) -> Self {
        let field = |lsb: u32, bits: u32| u64::from(word >> lsb & ((1 << bits) - 1));
        let signed = |value: u64, bits: u32| {
            let unused = 64 - bits;
            ((value << unused).cast_signed() >> unused).cast_unsigned()
        };
        let register = |lsb| usize::try_from(field(lsb, 5)).unwrap_or(0);
        let negative = |bytes: u64| match bytes.cast_signed() {
            below @ ..0 => Self::Takes(below.unsigned_abs()),
            _ => Self::Other,
        };
        // SUB SP, SP, #imm{, LSL #12}.
        if word & 0xff80_03ff == 0xd100_03ff {
            return Self::Takes(field(10, 12) << (12 * field(22, 1)));
        }
        // SUB SP, SP, Xm (extended register).
        if word & 0xffe0_03ff == 0xcb20_03ff {
            return Self::TakesUnknown;
        }
        // AND SP, Xn, #imm: an aligned frame; what was taken from a copy of SP is not followed.
        if word & 0xff80_001f == 0x9200_001f {
            return Self::TakesUnknown;
        }
        // STP (X or Q), pre-indexed, base SP: imm7 counts 8 or 16 bytes.
        if word & 0xffc0_03e0 == 0xa980_03e0 {
            return negative(signed(field(15, 7), 7).wrapping_mul(8));
        }
        // STR X, pre-indexed, base SP.
        if word & 0xffe0_0fe0 == 0xf800_0fe0 {
            return negative(signed(field(12, 9), 9));
        }
        if word & 0x7c00_0000 == 0x1400_0000 {
            let to = pc.wrapping_add(signed(field(0, 26), 26).wrapping_mul(4));
            return if word >> 31 == 1 {
                Self::Call(to)
            } else {
                Self::Branch(to)
            };
        }
        // BLR; BR too, which is a jump table or a tail call.
        if word & 0xffdf_fc1f == 0xd61f_0000 {
            return if word >> 21 & 1 == 1 {
                Self::CallPointer
            } else {
                Self::Other
            };
        }
        let imm21 = signed(field(5, 19) << 2 | field(29, 2), 21);
        if word & 0x9f00_0000 == 0x9000_0000 {
            let page = (pc & !0xfff).wrapping_add(imm21.wrapping_mul(4096));
            return Self::Page(register(0), page);
        }
        if word & 0x9f00_0000 == 0x1000_0000 {
            return Self::Address(pc.wrapping_add(imm21));
        }
        if word & 0xffc0_0000 == 0x9100_0000 {
            return Self::Add(register(5), field(10, 12));
        }
        Self::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_the_manual() {
        use Instruction::{
            Add, Address, Branch, Call, CallPointer, Other, Page, Takes, TakesUnknown,
        };
        for (word, expected) in [
            (0xd101_03ff, Takes(64)),       // sub sp, sp, #64
            (0xd140_07ff, Takes(4096)),     // sub sp, sp, #1, lsl #12
            (0xa9bf_7bfd, Takes(16)),       // stp x29, x30, [sp, #-16]!
            (0xa9b9_7bfd, Takes(112)),      // stp x29, x30, [sp, #-112]!
            (0xf81e_0ffe, Takes(32)),       // str x30, [sp, #-32]!
            (0xa901_7bfd, Other),           // stp x29, x30, [sp, #16]
            (0x9101_03ff, Add(31, 64)),     // add sp, sp, #64
            (0xcb29_63ff, TakesUnknown),    // sub sp, sp, x9
            (0x927a_e53f, TakesUnknown),    // and sp, x9, #0xffffffffffffffc0
            (0x9400_0002, Call(0x1008)),    // bl .+8
            (0x97ff_ffff, Call(0xffc)),     // bl .-4
            (0x1400_0001, Branch(0x1004)),  // b .+4
            (0xd63f_0100, CallPointer),     // blr x8
            (0xd61f_0100, Other),           // br x8
            (0xb000_0008, Page(8, 0x2000)), // adrp x8, .+0x1000
            (0x1000_0040, Address(0x1008)), // adr x0, .+8
            (0xd65f_03c0, Other),           // ret
        ] {
            assert_eq!(Instruction::decode(0x1000, word), expected, "{word:#x}");
        }
    }

    fn program(functions: &[(u64, u64, &[u64], bool)], taken: &[u64]) -> Program {
        let functions = functions.iter().map(|(at, frame, calls, indirect)| {
            let function = Function {
                name: format!("f{at}"),
                frame: *frame,
                calls: calls.iter().copied().collect(),
                indirect: *indirect,
                unknown: false,
            };
            (*at, function)
        });
        Program {
            functions: functions.collect(),
            taken: taken.iter().copied().collect(),
            names: BTreeMap::new(),
        }
    }

    #[test]
    fn the_deepest_way_counts() {
        let tree = program(
            &[
                (1, 16, &[2, 3], false),
                (2, 100, &[], false),
                (3, 32, &[4], false),
                (4, 64, &[], false),
            ],
            &[],
        );
        assert_eq!(tree.depth(1).expect("no recursion").0, 116);
    }

    #[test]
    fn a_call_through_a_pointer_is_the_deepest_that_it_may_be() {
        let tree = program(
            &[(1, 16, &[], true), (2, 8, &[], false), (3, 48, &[], false)],
            &[2, 3],
        );
        assert_eq!(tree.depth(1).expect("no recursion").0, 64);
        // One that calls through a pointer itself, NESTED deep.
        let tree = program(&[(1, 16, &[], true), (2, 8, &[], true)], &[2]);
        let nested = u64::try_from(NESTED).expect("small") + 1;
        assert_eq!(tree.depth(1).expect("no recursion").0, 16 + 8 * nested);
    }

    #[test]
    fn recursion_is_refused() {
        let tree = program(&[(1, 16, &[2], false), (2, 16, &[1], false)], &[]);
        assert!(tree.depth(1).is_err());
    }
}
