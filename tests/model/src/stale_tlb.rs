//! A TLB that keeps everything until it is told to drop it.
//!
//! The architecture lets a core cache any valid entry of a walk, at any moment, for as long
//! as it likes. This one does: leaves and table pointers both, and it prefers what it has
//! to what memory says now.

use crate::hardware_walk::{self, Fault, Memory, Translation};

/// A cached leaf, or the fact that a table lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    vmid: u16,
    level: u8,
    /// How many it covers: a table's or leaf's span, or sixteen pages with the Contiguous hint.
    bytes: u64,
    /// First address that the entry covers.
    base: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leaf(Translation),
    Table(u64),
}

/// The TLBs of every CPU, as one that forgets nothing.
#[derive(Debug, Default)]
pub struct StaleTlb {
    entries: Vec<Cached>,
}

const SPAN: [u64; 4] = [1 << 39, 1 << 30, 1 << 21, 1 << 12];

fn covers(cached: &Cached, vmid: u16, ipa: u64) -> bool {
    cached.vmid == vmid && ipa / cached.bytes * cached.bytes == cached.base
}

impl StaleTlb {
    /// Translates `ipa` with what is cached, walking memory for the rest, and caches it all.
    pub fn access(
        &mut self,
        memory: Memory<'_>,
        vttbr: u64,
        vtcr: u64,
        ipa: u64,
    ) -> Result<Translation, Fault> {
        let vmid = (vttbr >> 48) as u16;
        let mut deepest: Option<Cached> = None;
        for cached in self.entries.iter().filter(|c| covers(c, vmid, ipa)) {
            match cached.kind {
                Kind::Leaf(leaf) => {
                    let offset = ipa % cached.bytes;
                    return Ok(Translation {
                        pa: leaf.pa + offset,
                        ..leaf
                    });
                }
                Kind::Table(_) if deepest.is_none_or(|d| d.level < cached.level) => {
                    deepest = Some(*cached);
                }
                Kind::Table(_) => {}
            }
        }
        let entries = &mut self.entries;
        let mut step = |(level, table): hardware_walk::Step| {
            let span = SPAN[usize::from(level)];
            entries.push(Cached {
                vmid,
                level,
                bytes: span,
                base: ipa / span * span,
                kind: Kind::Table(table),
            });
        };
        let result = match deepest {
            Some(Cached {
                level,
                kind: Kind::Table(table),
                ..
            }) => hardware_walk::resume(memory, vtcr, ipa, level + 1, table, &mut step),
            _ => hardware_walk::walk_steps(memory, vttbr, vtcr, ipa, &mut step),
        }?;
        // An entry whose access flag is clear is not cached, even where hardware sets it.
        if result.raw >> 10 & 1 == 1 {
            let hinted = result.level == 3 && result.raw >> 52 & 1 == 1;
            let span = if hinted {
                65_536
            } else {
                SPAN[usize::from(result.level)]
            };
            self.entries.push(Cached {
                vmid,
                level: result.level,
                bytes: span,
                base: ipa / span * span,
                kind: Kind::Leaf(Translation {
                    pa: result.pa - ipa % span,
                    ..result
                }),
            });
        }
        Ok(result)
    }

    /// TLBI IPAS2E1IS with a TTL of `level`, or none for 0, completed.
    ///
    /// With a level only leaves of that level go; without, everything on the way too.
    pub fn invalidate_ipa(&mut self, vmid: u16, ipa: u64, level: u8) {
        self.entries.retain(|cached| {
            let named = match cached.kind {
                Kind::Leaf(_) => level == 0 || level == cached.level,
                Kind::Table(_) => level == 0,
            };
            !(named && covers(cached, vmid, ipa))
        });
    }

    /// TLBI VMALLS12E1IS, completed.
    pub fn invalidate_vmid(&mut self, vmid: u16) {
        self.entries.retain(|cached| cached.vmid != vmid);
    }

    /// Returns whether anything cached still leads into `bytes` from `pa`.
    pub fn reaches(&self, pa: u64, bytes: u64) -> bool {
        self.entries.iter().any(|cached| {
            let (from, len) = match cached.kind {
                Kind::Leaf(leaf) => (leaf.pa, cached.bytes),
                Kind::Table(table) => (table, 4096),
            };
            from < pa + bytes && pa < from + len
        })
    }
}
