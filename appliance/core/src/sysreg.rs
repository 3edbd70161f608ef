//! Trapped system registers: the table is `vcpu::sysreg`, this carries out what it says.

use ::vcpu::Register;
use ::vcpu::errata;
use ::vcpu::ids::IdReg;
use ::vcpu::sysreg::{self, Action, Direction, Quirks};

use crate::guest::Vcpu;
use crate::{exits, features, hw, schedule, world};

/// ICC_DIR_EL1, which ICH_HCR_EL2.TDIR traps: list registers may not hold what it names.
const ICC_DIR_EL1: Register = Register::new(3, 0, 12, 11, 1);

/// Reads an ID register of this core.
pub(crate) fn read_id(reg: IdReg) -> u64 {
    match reg {
        IdReg::Revidr => hw::revidr_el1(),
        IdReg::Pfr0 => hw::id_aa64pfr0(),
        IdReg::Pfr1 => hw::id_aa64pfr1(),
        IdReg::Zfr0 => hw::id_aa64zfr0(),
        IdReg::Dfr0 => hw::id_aa64dfr0(),
        IdReg::Isar0 => hw::id_aa64isar0(),
        IdReg::Isar1 => hw::id_aa64isar1(),
        IdReg::Isar2 => errata::isar2(hw::midr_el1(), hw::id_aa64isar2()),
        IdReg::Mmfr0 => hw::id_aa64mmfr0(),
        IdReg::Mmfr1 => hw::id_aa64mmfr1(),
        IdReg::Mmfr2 => hw::id_aa64mmfr2(),
    }
}

/// Answers an access to a trapped register.
pub(crate) fn access(vcpu: &mut Vcpu, register: Register, rt: u8, write: bool) {
    if write && register == ICC_DIR_EL1 {
        world::sync(vcpu);
        let vm = vcpu.vm();
        let intid = vcpu.reg(rt) as u32 & 0xff_ffff;
        let kick = vm.vgic.lock().deactivate(vcpu.index, intid);
        schedule::deliver(vm, kick);
        exits::skip(vcpu);
        return;
    }
    let direction = if write {
        Direction::Write
    } else {
        Direction::Read
    };
    let quirks = Quirks {
        features: vcpu.vm().features,
        pmu_raz: vcpu.vm().is_root(),
    };
    match sysreg::action(register, direction, quirks) {
        Action::Value(value) => vcpu.set_reg(rt, value),
        Action::Id(id) => {
            let value = vcpu.vm().ids.get(id);
            vcpu.set_reg(rt, value);
        }
        Action::Sgi1 => {
            let vm = vcpu.vm();
            let value = vcpu.reg(rt);
            let kick = vm.vgic.lock().sgi(vcpu.index, value);
            schedule::deliver(vm, kick);
        }
        // Group 0 does not exist for guests: they are given group 1 alone.
        Action::Ignore | Action::Sgi0 => {}
        Action::Debug => return features::access_debug(vcpu, register, direction, rt),
        Action::Pmu => return features::access_pmu(vcpu, register, direction, rt),
        Action::Open(feature) => return features::used(vcpu, feature),
        Action::Undefined => return exits::undefined(vcpu),
    }
    exits::skip(vcpu);
}
