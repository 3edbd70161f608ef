//! The scheduler on machines that are only counted: what each VM gets against what it should
//! get, worked out from weights alone.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what is meant"
)]

mod machine;
mod random;

use machine::{HZ, Life, Machine, VCPUS};
use random::Random;
use sched::Tuning;

/// What each of these would get of `cores` cores, in cores, if time were a liquid: by weight,
/// and none more than `most` of them.
fn ideal(cores: f64, weights: &[f64], most: &[f64]) -> Vec<f64> {
    let mut shares = vec![None; weights.len()];
    loop {
        let open: Vec<usize> = (0..weights.len())
            .filter(|n| shares[*n].is_none())
            .collect();
        let taken: f64 = shares.iter().flatten().sum();
        let sum: f64 = open.iter().map(|n| weights[*n]).sum();
        let offer = |n: usize| (cores - taken) * weights[n] / sum;
        let full: Vec<usize> = open
            .iter()
            .copied()
            .filter(|n| offer(*n) >= most[*n])
            .collect();
        if full.is_empty() {
            for n in open {
                shares[n] = Some(offer(n));
            }
            return shares.into_iter().flatten().collect();
        }
        for n in full {
            shares[n] = Some(most[n]);
        }
    }
}

/// What each VM ran, in cores.
fn got(machine: &Machine, before: &[u64], ticks: u64) -> Vec<f64> {
    let mut sums = vec![0.0; machine.world.vms.len()];
    for (vcpu, before) in machine.world.vcpus.iter().zip(before) {
        sums[vcpu.vm] += (vcpu.ran - before) as f64 / ticks as f64;
    }
    sums
}

fn ran(machine: &Machine) -> Vec<u64> {
    machine.world.vcpus.iter().map(|vcpu| vcpu.ran).collect()
}

/// A VM that is busy: its weight, its vCPUs, and when it begins and ends.
#[derive(Clone, Copy, Debug)]
struct BusyVm {
    weight: u32,
    vcpus: usize,
    /// It begins only after the others have run for a while.
    late: bool,
    /// It ends soon after that.
    ends: bool,
}

impl BusyVm {
    fn single(weight: u32) -> Self {
        Self {
            weight,
            vcpus: 1,
            late: false,
            ends: false,
        }
    }
}

/// Runs busy VMs and compares what those get that stay to the end with the ideal, once all have
/// begun and some have ended, for as long as the smallest needs to get `turns` seconds. Returns
/// the largest difference, as a part of what was due.
fn error(cores: usize, vms: &[BusyVm], turns: f64) -> f64 {
    const BEGUN: u64 = 2 * HZ;
    const ENDED: u64 = 3 * HZ;
    let mut machine = Machine::new(cores);
    let mut numbers = Vec::new();
    let mut begin = |machine: &mut Machine, late: bool| {
        for vm in vms.iter().filter(|vm| vm.late == late) {
            let number = machine.add_vm(vm.weight, 0);
            numbers.push((number, *vm));
            for _ in 0..vm.vcpus {
                let life = match vm.ends {
                    false => Life::Busy,
                    true => Life::Until(ENDED),
                };
                machine.add_vcpu(number, life, u32::MAX, false);
            }
        }
    };
    begin(&mut machine, false);
    machine.run_until(BEGUN);
    begin(&mut machine, true);
    machine.run_until(ENDED + HZ / 4);
    let staying: Vec<(usize, BusyVm)> = numbers.into_iter().filter(|(_, vm)| !vm.ends).collect();
    let weights: Vec<f64> = staying.iter().map(|(_, vm)| f64::from(vm.weight)).collect();
    let most: Vec<f64> = staying.iter().map(|(_, vm)| vm.vcpus as f64).collect();
    let ideal = ideal(cores as f64, &weights, &most);
    let least = ideal.iter().copied().fold(f64::MAX, f64::min);
    // Long enough for the smallest share to be many turns.
    let ticks = (turns / least * HZ as f64) as u64;
    let before = ran(&machine);
    let start = machine.now;
    machine.run_until(start + ticks);
    let got = got(&machine, &before, ticks);
    let errors = staying.iter().zip(&ideal);
    errors
        .map(|((number, _), ideal)| (got[*number] - ideal).abs() / ideal)
        .fold(0.0, f64::max)
}

#[test]
fn busy_vms_on_one_core_share_it_by_weight_within_five_per_cent() {
    for seed in 1..=5_000 {
        let mut random = Random::new(seed);
        let vms: Vec<BusyVm> = (0..random.below(7) + 2)
            .map(|_| BusyVm::single(50 + random.below(450) as u32))
            .collect();
        let error = error(1, &vms, 0.3);
        assert!(error <= 0.05, "seed {seed}: {vms:?} are {error} off");
    }
}

/// Some come late and some go early: what those had that stayed must not matter afterwards. A
/// VM may have fewer vCPUs than its weight would give it cores; what it leaves is the others'.
#[test]
fn busy_vms_on_some_cores_share_them_by_weight_within_five_per_cent() {
    const WORKLOADS: u64 = 5_000;
    let mut worst = (0.0, 0);
    for seed in 1..=WORKLOADS {
        let mut random = Random::new(seed);
        let cores = random.below(4) as usize + 2;
        let mut vms = Vec::new();
        let mut vcpus = 0;
        let wanted = cores + random.below(8) as usize;
        while vcpus < wanted {
            let vm = BusyVm {
                weight: 50 + random.below(450) as u32,
                vcpus: (1 + random.below(4) as usize).min(VCPUS - vcpus),
                late: random.below(3) == 0,
                ends: random.below(4) == 0,
            };
            if !vm.ends {
                vcpus += vm.vcpus;
            }
            vms.push(vm);
        }
        let error = error(cores, &vms, 1.0);
        if error > worst.0 {
            worst = (error, seed);
        }
        if error > 0.05 {
            println!("seed {seed}: {cores} cores, {vms:?} are {error} off");
        }
    }
    println!("the worst of {WORKLOADS} is {worst:?}");
    assert!(worst.0 <= 0.05);
}

/// The longest that vCPU `n` may have to wait, from the weights alone.
///
/// Its last turn has put it so far behind; one core, if all had to share that, brings the others
/// there in so long. Root may be as much further ahead as it is put before its time. A VM's limit
/// adds the time until what its vCPUs have spent together has come in again.
fn longest(machine: &Machine, n: usize) -> u64 {
    let tuning = Tuning::new(HZ);
    let vms = &machine.world.vms;
    let vcpu = &machine.world.vcpus[n];
    let siblings = |vm: usize| {
        let all = machine.world.vcpus.iter();
        all.filter(|other| other.vm == vm).count() as u64
    };
    let weights: u64 = vms.iter().map(|vm| u64::from(vm.weight)).sum();
    let turn = tuning.slice * 100 * siblings(vcpu.vm) / u64::from(vms[vcpu.vm].weight);
    let behind = turn + tuning.reach + tuning.steal + tuning.owed;
    let boosted = tuning.boost * u64::from(vms[0].weight) / 100;
    let turns = machine.world.vcpus.len() as u64 * tuning.slice;
    let mut most = behind * weights / 100 + boosted + turns;
    if let Some(percent) = std::num::NonZero::new(vms[vcpu.vm].cap.percent()) {
        // A quarter of the period's income is the longest turn, for each of them; and half of
        // it has to be there again.
        let period = sched::CAP_PERIOD_NS / 1_000;
        let spent = siblings(vcpu.vm) * (tuning.slice * 100 / u64::from(percent.get()) + period);
        most += siblings(vcpu.vm) * (spent + period);
    }
    most
}

/// VMs of every kind, random: nothing starves, limits hold, and the machine's own checks pass.
#[test]
fn nobody_starves_and_no_limit_is_passed_whatever_they_do() {
    let (mut nearest, mut longest_wait): (f64, u64) = (0.0, 0);
    for seed in 1..=2_000 {
        let mut random = Random::new(seed);
        let cores = random.below(4) as usize + 1;
        let all = (1_u32 << cores) - 1;
        let mut machine = Machine::new(cores);
        // Root: on the first core, before its time, and not to be trusted with it.
        let root = machine.add_vm(1000, 0);
        let life = match random.below(3) {
            0 => Life::Busy,
            _ => Life::Bursts {
                run: 50 + random.below(2_000),
                wait: 500 + random.below(20_000),
            },
        };
        machine.add_vcpu(root, life, 1, true);
        let mut vcpus = 1;
        while vcpus < 10 {
            let percent = match random.below(4) {
                0 => 10 + random.below(150) as u32,
                _ => 0,
            };
            let vm = machine.add_vm(50 + random.below(400) as u32, percent);
            for _ in 0..=random.below(3) {
                let life = match random.below(5) {
                    0 => Life::Bursts {
                        run: 10 + random.below(5_000),
                        wait: 100 + random.below(30_000),
                    },
                    4 => Life::Lends {
                        run: 5 + random.below(3_000),
                    },
                    1 => Life::Yields {
                        run: 5 + random.below(500),
                    },
                    _ => Life::Busy,
                };
                let affinity = match random.below(4) {
                    0 => 1 << random.below(cores as u64),
                    _ => all,
                };
                machine.add_vcpu(vm, life, affinity, false);
                vcpus += 1;
            }
        }
        machine.run_until(HZ / 2);
        let before = ran(&machine);
        machine.run_until(HZ / 2 + 4 * HZ);
        let got = got(&machine, &before, 4 * HZ);
        for (n, vcpu) in machine.world.vcpus.iter().enumerate() {
            let most = longest(&machine, n);
            nearest = nearest.max(vcpu.longest_wait as f64 / most as f64);
            longest_wait = longest_wait.max(vcpu.longest_wait);
            assert!(
                vcpu.longest_wait <= most,
                "seed {seed}: vCPU {n} waited {} ticks, not {most}",
                vcpu.longest_wait
            );
            assert!(vcpu.ran > before[n], "seed {seed}: vCPU {n} does not run");
        }
        for (n, vm) in machine.world.vms.iter().enumerate() {
            let most = f64::from(vm.cap.percent()) / 100.0;
            assert!(
                vm.cap.is_none() || got[n] <= most * 1.05,
                "seed {seed}: VM {n} got {} of {most} cores",
                got[n]
            );
        }
    }
    println!("the longest wait is {longest_wait} ticks; {nearest} of what is allowed");
}

#[test]
fn a_vm_gets_its_limit_and_no_more_when_the_machine_is_free() {
    for (percent, vcpus) in [(10, 1), (50, 1), (99, 1), (150, 2), (150, 4), (30, 4)] {
        let mut machine = Machine::new(4);
        let vm = machine.add_vm(100, percent);
        for _ in 0..vcpus {
            machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
        }
        machine.run_until(HZ);
        let before = ran(&machine);
        machine.run_until(11 * HZ);
        let got = got(&machine, &before, 10 * HZ)[0];
        let most = f64::from(percent) / 100.0;
        assert!(
            (got - most).abs() <= most * 0.02,
            "{percent} %, {vcpus} vCPUs: {got}"
        );
    }
}

#[test]
fn what_a_vm_gets_does_not_depend_on_how_many_vcpus_it_has() {
    let mut machine = Machine::new(1);
    for vcpus in [1, 2, 8] {
        let vm = machine.add_vm(100, 0);
        for _ in 0..vcpus {
            machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
        }
    }
    machine.run_until(HZ);
    let before = ran(&machine);
    machine.run_until(7 * HZ);
    for share in got(&machine, &before, 6 * HZ) {
        assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
    }
}

/// Turns that a VM's vCPUs lend one another are the VM's own: others have neither more nor less.
#[test]
fn what_a_vm_gets_does_not_depend_on_turns_lent_within_it() {
    for lent in [20, 300, 2_000, 7_000] {
        let mut machine = Machine::new(1);
        let lender = machine.add_vm(100, 0);
        for _ in 0..4 {
            machine.add_vcpu(lender, Life::Lends { run: lent }, u32::MAX, false);
        }
        for weight in [100, 200] {
            let vm = machine.add_vm(weight, 0);
            machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
        }
        machine.run_until(HZ);
        let before = ran(&machine);
        machine.run_until(11 * HZ);
        let got = got(&machine, &before, 10 * HZ);
        for (share, ideal) in got.iter().zip([0.25, 0.25, 0.5]) {
            assert!((share - ideal).abs() < ideal * 0.02, "{lent}: {got:?}");
        }
        let ran: Vec<u64> = ran(&machine).into_iter().take(4).collect();
        let (least, most) = (ran.iter().min().unwrap(), ran.iter().max().unwrap());
        assert!(*most < *least * 2, "{lent}: the lenders ran {ran:?}");
    }
}

/// Root answers within its wake-up's margin, however busy the guests are; and when it is
/// itself busy for good, they still get their part.
#[test]
fn root_goes_first_and_starves_nobody() {
    let mut machine = Machine::new(1);
    let root = machine.add_vm(1000, 0);
    machine.add_vcpu(
        root,
        Life::Bursts {
            run: 300,
            wait: 9_000,
        },
        1,
        true,
    );
    for _ in 0..6 {
        let vm = machine.add_vm(100, 0);
        machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
    }
    machine.run_until(5 * HZ);
    assert!(machine.world.vcpus[0].longest_wait <= 1);

    let mut machine = Machine::new(1);
    let root = machine.add_vm(1000, 0);
    machine.add_vcpu(root, Life::Busy, 1, true);
    let vm = machine.add_vm(100, 0);
    machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
    machine.run_until(20 * HZ);
    let share = got(&machine, &[0, 0], 20 * HZ)[1];
    assert!((0.06..0.12).contains(&share), "{share}");
}
