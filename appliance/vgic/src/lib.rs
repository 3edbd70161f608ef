//! The virtual GICv3 (IHI 0069): distributor, redistributors, and the choice of what lies
//! in the list registers.
//!
//! [`Vgic`] is the interrupt controller of one VM with up to [`VCPUS_MAX`] vCPUs and INTIDs
//! 0 to [`INTIDS`] − 1, in fixed space. It knows no hardware: core reads and writes the
//! `ICH_*` registers and passes their contents in an [`LrSet`]. One lock around it is enough.
//!
//! # Protocol
//!
//! 1. Before a vCPU is entered, if [`Vgic::wants_refill`]: [`Vgic::fill`], then write the list
//!    registers in [`LrSet::write`] and `ICH_HCR_EL2`. Otherwise nothing at all.
//! 2. Interrupts that lie in list registers are *out*: the guest changes them unseen.
//!    [`Vgic::fold`] brings back what it did. Read the list registers in [`LrSet::used`] first.
//!    [`Vgic::fill`] folds by itself if that was not done, so on the way in it is always
//!    right to read, then fill. Core folds
//!    - on a maintenance interrupt, whatever its reason, and fills again;
//!    - when a vCPU leaves its CPU for another vCPU, or stops, or waits in WFI, so that
//!      [`Vgic::pending`] is exact and SPIs can go elsewhere;
//!    - before [`Vgic::dist_read`] or [`Vgic::redist_read`] where [`reads_live_state`] says so
//!      (its own vCPU; whether to stop the others first is core's choice, they may lag);
//!    - before [`Vgic::deactivate`].
//! 3. Every [`Kick`] names vCPUs that must fold and fill soon: those in a guest need an IPI,
//!    those in WFI must be woken. It is the same duty as `wants_refill`, so core may also look
//!    at that.
//! 4. Whoever folds and fills then asks, while [`Vgic::owes_deactivation`], for
//!    [`Vgic::next_deactivation`], and deactivates that physical interrupt. A vCPU for which
//!    there is one is named by a [`Kick`]; for an SPI, which any CPU can deactivate, vCPU 0 is.
//!
//! # Level-sensitive interrupts
//!
//! The pending state is latch or line; the latch is what edges, SGIs and `ISPENDR` set and the
//! acknowledgement clears. A line still high at deactivation pends again: for software-backed
//! interrupts the list register asks for a maintenance interrupt at deactivation (its EOI bit)
//! whenever the line is high, so core folds, and the line is looked at again. For
//! hardware-backed ones ([`Vgic::set_hardware`]) the physical GIC does that: a hardware
//! list register found free means that the physical interrupt was deactivated, so the
//! line counts as low until core reports the next physical interrupt.
//!
//! # Overflow
//!
//! With more interrupts than list registers, the most urgent pending one always gets one, then
//! active ones, most urgent first, then further pending ones. What pends outside comes in
//! through the maintenance interrupt for "none pending" (NPIE), or when the guest enables
//! or disables a group; what is active outside is deactivated through
//! `EOIcount` (LRENPIE), most urgent first, which is the order a guest must use. That count
//! names no interrupt: an SPI that another vCPU deactivated and took since stays active there.
//! `ICC_DIR_EL1` always traps and goes to [`Vgic::deactivate`].
#![no_std]

mod array;
mod bank;
mod bits;
mod dist;
mod fill;
mod fold;
mod input;
pub mod its;
mod kick;
mod lpi;
mod lr;
mod redist;
mod sgi;
mod vcpu;

use bank::{Bank, Groups, index};
use bits::{Bits, bit};
use vcpu::{LPIS_WAIT, Vcpu, mask};

pub use arch::Width;
pub use input::Level;
pub use kick::Kick;
pub use lpi::{LPI_FIRST, LPIS, Lpis};
pub use lr::{LRS_MAX, Lr, LrSet, hcr, vmcr};
pub use sgi::SgiRegister;

/// Most vCPUs a VM may have.
pub const VCPUS_MAX: usize = 8;
/// Number of INTIDs: 16 SGIs, 16 PPIs, 224 SPIs.
pub const INTIDS: u32 = 256;

/// Number of SPI banks.
const SPI_BANKS: usize = 7;
/// Bit of `Vgic::releases` that stands for the SPI banks.
const SPI_RELEASES: u16 = 1 << 8;

/// The interrupt controller of one VM.
#[derive(Debug)]
pub struct Vgic {
    /// Number of vCPUs, 1..=8.
    count: u8,
    /// vCPUs that must fold and fill.
    dirty: u8,
    /// vCPUs with interrupts in list registers.
    loaded: u8,
    /// vCPUs whose list registers were given something pending.
    offered: u8,
    /// Banks with a physical interrupt to deactivate: bit n for vCPU n, bit 8 for SPIs.
    releases: u16,
    /// The vCPU that takes SPIs routed to any.
    taker: u8,
    /// What `GICD_CTLR` enables.
    groups: Groups,
    vcpus: [Vcpu; VCPUS_MAX],
    spi: [Bank; SPI_BANKS],
    /// SPIs with `GICD_IROUTER.Interrupt_Routing_Mode` set.
    any: [u32; SPI_BANKS],
    /// `GICD_IROUTER`, low words; index 0 is INTID 32.
    route: [u32; 224],
    /// LPIs, if the VM has an ITS.
    lpis: Option<&'static mut Lpis>,
}

const _: () = assert!(size_of::<Vgic>() <= 8192);

impl Vgic {
    /// Creates the controller at reset for `vcpus` vCPUs, brought to 1..=8.
    pub const fn new(vcpus: u32) -> Self {
        let count = match vcpus {
            0 | 1 => 1,
            2 => 2,
            3 => 3,
            4 => 4,
            5 => 5,
            6 => 6,
            7 => 7,
            8.. => 8,
        };
        let mut vcpus = [const { Vcpu::new() }; VCPUS_MAX];
        // GICD_IROUTER resets to 0.0.0.0, which is vCPU 0.
        let mut word = 1;
        while word < 8 {
            #[expect(clippy::indexing_slicing, reason = "const fn; word is below 8")]
            let share = &mut vcpus[0].share[word];
            share.target = u32::MAX;
            word = word.wrapping_add(1);
        }
        Self {
            count,
            // Everybody has yet to fill once.
            dirty: 0xff,
            loaded: 0,
            offered: 0,
            releases: 0,
            taker: 0,
            groups: Groups { zero: 0, one: 0 },
            vcpus,
            spi: [const { Bank::new(0) }; SPI_BANKS],
            any: [0; SPI_BANKS],
            route: [0; 224],
            lpis: None,
        }
    }

    /// Returns the number of vCPUs.
    pub const fn vcpus(&self) -> u32 {
        self.count as u32
    }

    /// Returns whether `vcpu` must fold and fill before its guest runs on.
    pub fn wants_refill(&self, vcpu: usize) -> bool {
        self.dirty & mask(vcpu) != 0
    }

    /// Returns whether `vcpu` has interrupts in list registers that were not folded.
    pub fn is_loaded(&self, vcpu: usize) -> bool {
        self.loaded & mask(vcpu) != 0
    }

    /// Returns whether an interrupt would be signalled if `vcpu` ran, the guest's priority
    /// mask and group enables aside: see [`Self::signals`].
    ///
    /// Exact after [`Self::fold`]; otherwise what was offered still counts.
    pub fn pending(&self, vcpu: usize) -> bool {
        let waiting = self.vcpus.get(vcpu).is_some_and(|v| v.waiting != 0);
        waiting || self.offered & mask(vcpu) != 0
    }

    /// Returns whether an interrupt would be signalled if `vcpu` ran with `ICH_VMCR_EL2` = `vmcr`:
    /// one that waits, in a group the guest has enabled, above its priority mask.
    ///
    /// Use it for WFI, after [`Self::fold`]; what is still out counts as signalled. Interrupts
    /// the guest is handling are not taken into account: waking early is allowed.
    pub fn signals(&self, vcpu: usize, vmcr: u64) -> bool {
        if self.offered & mask(vcpu) != 0 {
            return true;
        }
        let Some(v) = self.vcpus.get(vcpu) else {
            return false;
        };
        let [.., limit, _, _, _, _] = vmcr.to_le_bytes();
        let all = |on: u64| if vmcr & on == 0 { 0 } else { u32::MAX };
        let (zero, one) = (all(vmcr::VENG0), all(vmcr::VENG1));
        if v.waiting & LPIS_WAIT != 0 && one != 0 && self.lpi_signals(vcpu, limit) {
            return true;
        }
        let [words, _] = v.waiting.to_le_bytes();
        Bits(u32::from(words)).any(|word| {
            self.bank_ref(vcpu, index(word)).is_some_and(|bank| {
                let enabled = bank.group & one | !bank.group & zero;
                Bits(v.share(index(word)).waiting & enabled).any(|n| bank.priority_of(n) < limit)
            })
        })
    }

    /// Returns whether core has to deactivate a physical interrupt for `vcpu`.
    pub fn owes_deactivation(&self, vcpu: usize) -> bool {
        self.releases & (u16::from(mask(vcpu)) | SPI_RELEASES) != 0
    }

    /// Returns the bank that interrupt `intid` of `vcpu` is in, and its bit there.
    fn locate(&mut self, vcpu: usize, intid: u32) -> Option<(&mut Bank, u32)> {
        let mask = bit(intid & 31);
        Some((self.bank(vcpu, index(intid >> 5))?, mask))
    }

    /// Returns bank `word` as `vcpu` sees it.
    fn bank(&mut self, vcpu: usize, word: usize) -> Option<&mut Bank> {
        match word.checked_sub(1) {
            None => self.vcpu(vcpu).map(|v| &mut v.bank),
            Some(n) => self.spi.get_mut(n),
        }
    }

    /// Returns bank `word` as `vcpu` sees it, to read.
    fn bank_ref(&self, vcpu: usize, word: usize) -> Option<&Bank> {
        match word.checked_sub(1) {
            None => self.vcpus.get(vcpu).map(|v| &v.bank),
            Some(n) => self.spi.get(n),
        }
    }

    /// Returns vCPU `vcpu`, if the VM has it.
    fn vcpu(&mut self, vcpu: usize) -> Option<&mut Vcpu> {
        if vcpu >= usize::from(self.count) {
            return None;
        }
        self.vcpus.get_mut(vcpu)
    }

    /// Recomputes what follows from a bank in which the interrupts in `changed` changed.
    fn update(&mut self, vcpu: usize, word: usize, changed: u32) -> Kick {
        if word == 0 {
            self.update_private(vcpu, changed)
        } else {
            self.update_spi(word, changed)
        }
    }

    fn update_private(&mut self, vcpu: usize, changed: u32) -> Kick {
        let (own, groups) = (mask(vcpu), self.groups);
        let Some(v) = self.vcpu(vcpu) else {
            return Kick::NONE;
        };
        v.bank.settle();
        let release = v.bank.release;
        let (old, new) = (v.share[0].waiting, v.bank.deliverable(groups));
        let news = new & !old | (new | v.bank.out) & changed;
        v.set_waiting(0, new);
        if release != 0 {
            self.releases |= u16::from(own);
        }
        self.kick(if news | release == 0 { 0 } else { own })
    }

    fn update_spi(&mut self, word: usize, changed: u32) -> Kick {
        let groups = self.groups;
        let Some(bank) = word.checked_sub(1).and_then(|n| self.spi.get_mut(n)) else {
            return Kick::NONE;
        };
        bank.settle();
        let (mut kicked, mut own) = (0u8, 1u8);
        if bank.release != 0 {
            // Anybody can deactivate an SPI; somebody has to come and do it.
            self.releases |= SPI_RELEASES;
            kicked = own;
        }
        let (deliverable, out) = (bank.deliverable(groups), bank.out & changed);
        for v in self.vcpus.iter_mut().take(usize::from(self.count)) {
            let share = v.share(word);
            let new = deliverable & share.target;
            if new != share.waiting {
                v.set_waiting(word, new);
            }
            if new & !share.waiting | new & changed | share.holds & out != 0 {
                kicked |= own;
            }
            own = own.wrapping_shl(1);
        }
        self.kick(kicked)
    }

    /// Marks the vCPUs in `mask` and names them.
    fn kick(&mut self, mask: u8) -> Kick {
        self.dirty |= mask;
        Kick::from_mask(mask)
    }

    /// Recomputes everything, as after a change of the group enables.
    fn update_all(&mut self) -> Kick {
        let mut kick = Kick::NONE;
        for vcpu in 0..usize::from(self.count) {
            kick |= self.update_private(vcpu, u32::MAX);
        }
        for word in 1..=SPI_BANKS {
            kick |= self.update_spi(word, u32::MAX);
        }
        kick | self.update_all_lpis()
    }
}

/// Returns the value of `MPIDR_EL1` that vCPU `n` must have for its redistributor to be found:
/// Aff0 is `n`, bit 31 is RES1.
pub const fn mpidr(n: u32) -> u64 {
    0x8000_0000 | (n & 7) as u64
}

/// Returns whether a read at `offset` of GICD, or of a GICR's SGI_base frame, shows pending
/// or active states, which list registers may have changed: fold first.
pub const fn reads_live_state(offset: u64) -> bool {
    matches!(offset & 0xffff, 0x200..=0x3ff)
}
