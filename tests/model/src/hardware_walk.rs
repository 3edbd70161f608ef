//! What an Arm core does with stage-2 tables (DDI 0487, D8.2 and D8.3, 4 KiB granule).

/// Reads 64 bits of physical memory.
pub type Memory<'m> = &'m dyn Fn(u64) -> u64;

/// A successful walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Output address of the byte asked for.
    pub pa: u64,
    /// Level the leaf was found at, 1 to 3.
    pub level: u8,
    /// Loads are allowed.
    pub read: bool,
    /// Stores are allowed (by S2AP, or by DBM where hardware updates dirty state).
    pub write: bool,
    /// Fetches are allowed.
    pub exec: bool,
    /// MemAttr, bits 5:2 of the leaf.
    pub memattr: u8,
    /// The whole leaf.
    pub raw: u64,
    /// Where in memory the leaf is.
    pub entry: u64,
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Translation fault at a level.
    Translation(u8),
    /// Access flag fault at a level.
    AccessFlag(u8),
    /// The tables, or VTCR_EL2, are not what the manual allows.
    Broken,
}

/// A table entry that a walk went through: its level, and the table it points to.
pub type Step = (u8, u64);

/// Walks `ipa` with the registers as they are written.
pub fn walk(memory: Memory<'_>, vttbr: u64, vtcr: u64, ipa: u64) -> Result<Translation, Fault> {
    walk_steps(memory, vttbr, vtcr, ipa, &mut |_| {})
}

/// As [`walk`], and reports each table entry on the way.
pub fn walk_steps(
    memory: Memory<'_>,
    vttbr: u64,
    vtcr: u64,
    ipa: u64,
    step: &mut dyn FnMut(Step),
) -> Result<Translation, Fault> {
    let ipa_bits = 64 - (vtcr & 0x3f);
    if vtcr >> 14 & 3 != 0 {
        return Err(Fault::Broken);
    }
    let start: u8 = match vtcr >> 6 & 3 {
        0 => 2,
        1 => 1,
        2 => 0,
        _ => return Err(Fault::Broken),
    };
    if ipa >> ipa_bits != 0 {
        return Err(Fault::Translation(0));
    }
    // At most sixteen concatenated tables, aligned to their total size.
    let root_bits = ipa_bits - (39 - 9 * u64::from(start));
    let root = vttbr & 0x0000_ffff_ffff_fffe;
    if root_bits > 13 || !root.is_multiple_of((8 << root_bits).max(64)) {
        return Err(Fault::Broken);
    }
    resume(memory, vtcr, ipa, start, root, step)
}

/// Goes on from a table at `level`, as a core does that has cached the way there.
pub fn resume(
    memory: Memory<'_>,
    vtcr: u64,
    ipa: u64,
    level: u8,
    table: u64,
    step: &mut dyn FnMut(Step),
) -> Result<Translation, Fault> {
    let ipa_bits = 64 - (vtcr & 0x3f);
    let start = 2 - (vtcr >> 6 & 3) as u8;
    let (mut level, mut table) = (level, table);
    loop {
        let shift = [39, 30, 21, 12][usize::from(level)];
        let width = if level == start { ipa_bits - shift } else { 9 };
        let index = ipa >> shift & ((1 << width) - 1);
        let bits = memory(table + index * 8);
        let out = bits & 0x0000_ffff_ffff_f000;
        match (bits & 3, level) {
            (0 | 2, _) => return Err(Fault::Translation(level)),
            (3, 0..=2) => {
                step((level, out));
                table = out;
                level += 1;
            }
            (1, 1 | 2) | (3, 3) => {
                let size = 1_u64 << shift;
                if !out.is_multiple_of(size) {
                    return Err(Fault::Broken);
                }
                if bits >> 10 & 1 == 0 && vtcr >> 21 & 1 == 0 {
                    return Err(Fault::AccessFlag(level));
                }
                return Ok(Translation {
                    pa: out + ipa % size,
                    level,
                    read: bits >> 6 & 1 == 1,
                    write: bits >> 7 & 1 == 1 || bits >> 51 & 1 == 1 && vtcr >> 22 & 1 == 1,
                    exec: bits >> 54 & 1 == 0,
                    memattr: (bits >> 2 & 0xf) as u8,
                    raw: bits,
                    entry: table + index * 8,
                });
            }
            _ => return Err(Fault::Broken),
        }
    }
}
