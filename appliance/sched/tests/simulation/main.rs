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

use machine::{HZ, Life, Machine};
use random::Random;

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

/// Runs busy VMs of one vCPU each, the smallest for `turns` seconds, and compares with the ideal:
/// returns the largest difference, as a part of what was due, which may be `most`.
fn fair(seed: u64, cores: usize, weights: &[u32], turns: f64, most: f64) -> f64 {
    let mut machine = Machine::new(cores);
    for weight in weights {
        let vm = machine.add_vm(*weight, 0);
        machine.add_vcpu(vm, Life::Busy, u32::MAX, false);
    }
    let floats: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
    let ideal = ideal(cores as f64, &floats, &vec![1.0; weights.len()]);
    let least = ideal.iter().copied().fold(f64::MAX, f64::min);
    // Long enough for the smallest share to be many turns.
    let ticks = (turns / least * HZ as f64) as u64;
    machine.run_until(HZ / 4);
    let before = ran(&machine);
    machine.run_until(HZ / 4 + ticks);
    let got = got(&machine, &before, ticks);
    let error = |n: usize| (got[n] - ideal[n]).abs() / ideal[n];
    let worst = (0..weights.len()).map(error).fold(0.0, f64::max);
    if worst > most {
        panic!("seed {seed}: {cores} cores, weights {weights:?}: got {got:?}, not {ideal:?}");
    }
    worst
}

#[test]
fn busy_vms_on_one_core_share_it_by_weight_within_five_per_cent() {
    for seed in 1..=8_500 {
        let mut random = Random::new(seed);
        let weights: Vec<u32> = (0..random.below(7) + 2)
            .map(|_| 50 + random.below(450) as u32)
            .collect();
        fair(seed, 1, &weights, 0.3, 0.05);
    }
}

/// Within 5 per cent is the aim, and not reached by all: SPECIFICATION.md says so.
#[test]
fn busy_vms_on_some_cores_share_them_by_weight_most_within_five_per_cent() {
    const WORKLOADS: u64 = 1_500;
    let mut errors = Vec::new();
    for seed in 1..=WORKLOADS {
        let mut random = Random::new(seed);
        let cores = random.below(3) as usize + 2;
        let vms = cores + random.below(6) as usize;
        let weights: Vec<u32> = (0..vms).map(|_| 50 + random.below(250) as u32).collect();
        errors.push(fair(seed, cores, &weights, 2.0, 0.5));
    }
    errors.sort_by(f64::total_cmp);
    let within = |most: f64| errors.partition_point(|error| *error <= most);
    println!(
        "{} of {WORKLOADS} within 5 %, {} within 12 %; worst {:?}",
        within(0.05),
        within(0.12),
        errors.last()
    );
    assert!(within(0.05) >= 1_350);
}

/// VMs of every kind, random: nothing starves, limits hold, and the machine's own checks pass.
#[test]
fn nobody_starves_and_no_limit_is_passed_whatever_they_do() {
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
            // A small weight's turn comes seldom; a limit is shared by a VM's vCPUs.
            let capped = !machine.world.vms[vcpu.vm].cap.is_none();
            let most = if capped { 10 * HZ } else { 4 * HZ };
            assert!(
                vcpu.longest_wait < most,
                "seed {seed}: vCPU {n} waited {} ticks",
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
