//! Which parts of a device's memory are touched, and how often.

/// Cells of a map.
pub const CELLS: usize = 64;

/// Faults by place: equal parts of a BAR, each with a counter that stays at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchMap {
    shift: u32,
    cells: [u32; CELLS],
}

impl TouchMap {
    /// A map of a BAR of `bar_size` bytes, a power of two. A cell is no smaller than a page.
    pub const fn new(bar_size: u64) -> Self {
        let shift = bar_size.trailing_zeros().saturating_sub(6);
        Self {
            shift: if shift < 12 { 12 } else { shift },
            cells: [0; CELLS],
        }
    }

    /// Bytes of a cell.
    pub const fn cell_bytes(&self) -> u64 {
        1 << (self.shift & 63)
    }

    /// Counts a fault at `offset` of the BAR.
    pub fn count(&mut self, offset: u64) {
        let cell = usize::try_from(offset >> (self.shift & 63)).unwrap_or(CELLS);
        if let Some(cell) = self.cells.get_mut(cell) {
            *cell = cell.saturating_add(1);
        }
    }

    /// Returns the counters, lowest offset first.
    pub fn cells(&self) -> &[u32; CELLS] {
        &self.cells
    }
}
