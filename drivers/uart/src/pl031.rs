//! The PL031 real-time clock (DDI 0224).
//!
//! Counts seconds from an offset to the machine's time of day, which each access brings
//! along; setting the guest's clock changes only its offset.

/// RTCPeriphID0 to 3: part 0x031, designer 0x41, revision 1, configuration 0.
const PERIPHERAL_ID: [u8; 4] = [0x31, 0x10, 0x14, 0x00];

/// A PL031.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pl031 {
    /// What is added to the time of day, modulo 2^32.
    offset: u32,
    match_at: u32,
    load: u32,
    mask: bool,
    raw: bool,
    /// Time of day at which the alarm goes off.
    alarm: Option<u64>,
}

impl Pl031 {
    /// Returns a clock that shows the machine's time of day, without an alarm.
    pub const fn new() -> Self {
        Self {
            offset: 0,
            match_at: 0,
            load: 0,
            mask: false,
            raw: false,
            alarm: None,
        }
    }

    /// Performs a load from `offset` at time of day `now`, in seconds since 1970.
    pub fn read(&mut self, offset: u64, now: u64) -> u32 {
        self.update(now);
        match offset {
            0x00 => self.shown(now),
            0x04 => self.match_at,
            0x08 => self.load,
            // RTCCR: it always runs.
            0x0c => 1,
            0x10 => self.mask.into(),
            0x14 => self.raw.into(),
            0x18 => (self.raw && self.mask).into(),
            0xfe0..=0xfff => crate::identification(offset, PERIPHERAL_ID),
            _ => 0,
        }
    }

    /// Performs a store to `offset` at time of day `now`, in seconds since 1970.
    pub fn write(&mut self, offset: u64, value: u32, now: u64) {
        self.update(now);
        match offset {
            0x04 => {
                self.match_at = value;
                self.arm(now);
            }
            0x08 => {
                self.load = value;
                self.offset = value.wrapping_sub(low(now));
                self.arm(now);
            }
            0x10 => self.mask = value & 1 != 0,
            0x1c => self.raw &= value & 1 == 0,
            // RTCCR: once on, it stays on. The rest is read-only or absent.
            _ => {}
        }
    }

    /// Raises the interrupt if the alarm's time has come.
    pub fn update(&mut self, now: u64) {
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.alarm = None;
            self.raw = true;
        }
    }

    /// Returns the level of RTCINTR.
    pub const fn irq_level(&self) -> bool {
        self.raw && self.mask
    }

    /// Returns the time of day at which [`Pl031::update`] is due, if there is an alarm that
    /// the guest would see.
    pub const fn next_alarm(&self) -> Option<u64> {
        if self.mask { self.alarm } else { None }
    }

    /// RTCDR.
    const fn shown(&self, now: u64) -> u32 {
        low(now).wrapping_add(self.offset)
    }

    /// The alarm goes off when RTCDR next equals RTCMR: now, or within 2^32 seconds.
    fn arm(&mut self, now: u64) {
        let ahead = self.match_at.wrapping_sub(self.shown(now));
        self.alarm = now.checked_add(ahead.into());
        self.update(now);
    }
}

/// The low 32 bits.
const fn low(seconds: u64) -> u32 {
    let [a, b, c, d, ..] = seconds.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
