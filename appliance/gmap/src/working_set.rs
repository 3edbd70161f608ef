//! How much memory a VM works with, estimated from what each scan of its pages finds young.
//!
//! One number, weighted exponentially: a scan counts a quarter and all before it three. It
//! follows a change of the load to nine tenths in eight scans, and one burst moves it by a
//! quarter only.

/// Parts of a byte that the estimate is kept in.
const FRACTION: u32 = 8;
/// A scan counts as one of this many.
const WEIGHT: u64 = 4;

/// The estimate for one VM. Scans are to be equally far apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// In 256ths of a byte.
    average: u64,
    young: u64,
    last: u64,
    scans: u64,
}

impl WorkingSet {
    /// Counts what [`crate::Gmap::age`] reports: `bytes` that were touched since the last scan.
    pub fn touched(&mut self, bytes: u64) {
        self.young = self.young.saturating_add(bytes);
    }

    /// Ends a scan of the whole VM: takes what was touched into the estimate.
    pub fn end_scan(&mut self) {
        let young = core::mem::take(&mut self.young);
        let now = young.min(u64::MAX >> FRACTION) << FRACTION;
        self.average = match self.scans {
            0 => now,
            _ => self
                .average
                .saturating_sub(self.average / WEIGHT)
                .saturating_add(now / WEIGHT),
        };
        self.last = young;
        self.scans = self.scans.saturating_add(1);
    }

    /// Returns the estimate in bytes; 0 before the first scan.
    pub fn bytes(&self) -> u64 {
        self.average
            .saturating_add(1 << (FRACTION.saturating_sub(1)))
            >> FRACTION
    }

    /// Returns what the last scan found, in bytes.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Returns the number of scans.
    pub fn scans(&self) -> u64 {
        self.scans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(set: &mut WorkingSet, bytes: u64) -> u64 {
        set.touched(bytes / 2);
        set.touched(bytes.saturating_sub(bytes / 2));
        set.end_scan();
        set.bytes()
    }

    #[test]
    fn the_first_scan_is_the_estimate_and_a_steady_load_stays_there() {
        let mut set = WorkingSet::default();
        assert_eq!(set.bytes(), 0);
        for _ in 0..100 {
            assert_eq!(scan(&mut set, 12_345_678), 12_345_678);
        }
        assert_eq!((set.last(), set.scans()), (12_345_678, 100));
    }

    #[test]
    fn a_change_is_followed_to_nine_tenths_in_eight_scans_and_a_burst_counts_a_quarter() {
        let mut set = WorkingSet::default();
        scan(&mut set, 0);
        assert_eq!(scan(&mut set, 1 << 30), 1 << 28);
        // 1 - (3/4)^8 is 0.8999.
        let after = (0..7).map(|_| scan(&mut set, 1 << 30)).last();
        let share = (after.expect("seven") * 1000) >> 30;
        assert_eq!(share, 899);
        assert_eq!((scan(&mut set, 0) * 1000) >> 30, 674);
    }

    #[test]
    fn no_number_of_bytes_overflows_it() {
        let mut set = WorkingSet::default();
        for _ in 0..40 {
            scan(&mut set, u64::MAX);
        }
        assert_eq!(set.bytes(), u64::MAX >> 8);
    }
}
