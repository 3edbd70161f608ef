//! An address space as a list of ranges: what any tree of tables must amount to.

/// A run of addresses that go to a run of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<T> {
    /// First input address.
    pub start: u64,
    /// Input address past the last.
    pub end: u64,
    /// Output address of `start`.
    pub pa: u64,
    /// Whatever else is known of the run.
    pub tag: T,
}

/// A map from addresses to addresses.
#[derive(Clone, Debug)]
pub struct Flat<T> {
    runs: Vec<Run<T>>,
}

impl<T> Default for Flat<T> {
    fn default() -> Self {
        Self { runs: Vec::new() }
    }
}

impl<T: Copy> Flat<T> {
    /// Returns where `at` goes, and its tag.
    pub fn get(&self, at: u64) -> Option<(u64, T)> {
        let run = self.runs.iter().find(|r| r.start <= at && at < r.end)?;
        Some((run.pa + (at - run.start), run.tag))
    }

    /// Returns whether nothing of `start..end` is mapped.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        !self.runs.iter().any(|r| r.start < end && start < r.end)
    }

    /// Maps `start..end`, which is free, to `pa` and up.
    pub fn insert(&mut self, start: u64, end: u64, pa: u64, tag: T) {
        assert!(self.is_free(start, end), "{start:#x} is mapped already");
        self.runs.push(Run {
            start,
            end,
            pa,
            tag,
        });
    }

    /// Unmaps `start..end`, whatever is there.
    pub fn remove(&mut self, start: u64, end: u64) {
        let mut kept = Vec::new();
        for run in self.runs.drain(..) {
            if run.start < start {
                kept.push(Run {
                    end: run.end.min(start),
                    ..run
                });
            }
            if run.end > end {
                let from = run.start.max(end);
                kept.push(Run {
                    start: from,
                    pa: run.pa + (from - run.start),
                    ..run
                });
            }
        }
        self.runs = kept;
    }

    /// Returns every run.
    pub fn runs(&self) -> &[Run<T>] {
        &self.runs
    }
}
