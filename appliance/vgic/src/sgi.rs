//! Software-generated interrupts.

use crate::bits::bit;
use crate::vcpu::mask;
use crate::{Kick, Vgic};

/// The register a guest generated an SGI with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// `ICC_SGI0R_EL1`: only SGIs the target has in group 0. With one security state
    /// `ICC_ASGI1R_EL1` does the same.
    Group0,
    /// `ICC_SGI1R_EL1`: with one security state (`GICD_CTLR.DS`), SGIs of either group.
    Group1,
}

impl Vgic {
    /// Generates what a write of `value` to `ICC_SGI1R_EL1` by vCPU `sender` asks for
    /// (IHI 0069H, 12.2.20).
    pub fn sgi(&mut self, sender: usize, value: u64) -> Kick {
        self.sgi_from(sender, SgiRegister::Group1, value)
    }

    /// Generates what a write of `value` to `register` by vCPU `sender` asks for.
    ///
    /// Targets that do not exist are ignored. `RS` names Aff0 values from 16 up, which
    /// nobody has, so with it set nobody is a target (`GICD_TYPER.RSS` is 0).
    pub fn sgi_from(&mut self, sender: usize, register: SgiRegister, value: u64) -> Kick {
        const IRM: u64 = 1 << 40;
        /// Aff3, RS, Aff2 and Aff1: zero for every vCPU there is.
        const ELSEWHERE: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;
        let [low, _, _, intid, ..] = value.to_le_bytes();
        let sgi = bit(u32::from(intid & 0xf));
        let present = u8::MAX.wrapping_shr(8u32.wrapping_sub(self.vcpus()));
        let mut targets = if value & IRM != 0 {
            present & !mask(sender)
        } else if value & ELSEWHERE == 0 {
            present & low
        } else {
            0
        };
        let groups = self.groups;
        let mut kicked = 0u8;
        while targets != 0 {
            let n = targets.trailing_zeros();
            let own = targets & targets.wrapping_neg();
            targets &= !own;
            let Some(v) = self.vcpus.get_mut(crate::index(n)) else {
                break;
            };
            let refused = match register {
                SgiRegister::Group0 => v.bank.group & sgi,
                SgiRegister::Group1 => 0,
            };
            if v.bank.latch & sgi | refused != 0 {
                continue;
            }
            v.bank.latch |= sgi;
            let new = v.bank.deliverable(groups);
            if new & sgi | v.bank.out & sgi != 0 {
                kicked |= own;
                v.set_waiting(0, new);
            }
        }
        self.kick(kicked)
    }
}
