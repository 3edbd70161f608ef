//! Trapped system registers: the table is `vcpu::sysreg`, this carries out what it says.

use ::vcpu::sysreg::{self, Action, Quirks};
use ::vcpu::{GuestIds, IdReg, SysregAccess};
use spin::Once;

use crate::guest::Vcpu;
use crate::{exits, hw, schedule, world};

static IDS: Once<GuestIds> = Once::new();

/// Computes what guests read in the ID registers.
pub(crate) fn detect() {
    IDS.call_once(|| GuestIds::new(read_id, world::pa_bits()));
}

fn read_id(reg: IdReg) -> u64 {
    match reg {
        IdReg::Pfr0 => hw::id_aa64pfr0(),
        IdReg::Pfr1 => hw::id_aa64pfr1(),
        _ => 0,
    }
}

/// Answers an access to a trapped register.
pub(crate) fn access(vcpu: &mut Vcpu, access: SysregAccess) {
    let quirks = Quirks {
        pmu_raz: vcpu.vm().is_root(),
    };
    let ids = IDS.get().expect("`detect` ran at boot");
    let value = match sysreg::action(access.register, access.direction, ids, quirks) {
        Action::Value(value) => value,
        Action::Ignore => 0,
        Action::Undefined => {
            exits::undefined(vcpu);
            return;
        }
        Action::Sgi1 => {
            let vm = vcpu.vm();
            let value = vcpu.reg(access.rt);
            let kick = vm.vgic.lock().sgi(vcpu.index, value);
            schedule::deliver(vm, kick);
            0
        }
        Action::Deactivate => {
            world::sync(vcpu);
            let vm = vcpu.vm();
            let intid = vcpu.reg(access.rt) as u32 & 0xff_ffff;
            let kick = vm.vgic.lock().deactivate(vcpu.index, intid);
            schedule::deliver(vm, kick);
            0
        }
    };
    if access.is_read() {
        vcpu.set_reg(access.rt, value);
    }
    exits::skip(vcpu);
}
