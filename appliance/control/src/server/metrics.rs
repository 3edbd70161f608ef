//! `/metrics`: Prometheus text format, version 0.0.4.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use api::limits::WEIGHT_DEFAULT;
use api::{VcpuState, VmState};

use super::Server;
use crate::backend::Backend;
use crate::clock::SECOND_NS;
use crate::http::reply::Reply;

/// Media type of the text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes one family after another. Labels here are names and words of our own, none of
/// which can hold a quote, a backslash or a line break.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, args: core::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(args);
        self.0.push('\n');
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    alloc::format!("{}.{:09}", ns / SECOND_NS, ns % SECOND_NS)
}

impl Server {
    /// Counts an answered request.
    pub(crate) fn count(&mut self, pattern: &'static str, status: u16) {
        let count = self.requests.entry((pattern, status)).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn metrics(&self, backend: &dyn Backend) -> Reply {
        let mut text = Text(String::new());
        self.host_metrics(&mut text, backend);
        self.vm_metrics(&mut text, backend);
        text.family(
            "skete_api_requests_total",
            "counter",
            "Requests answered, by route and status.",
        );
        for ((route, code), count) in &self.requests {
            text.line(format_args!(
                "skete_api_requests_total{{route=\"{route}\",code=\"{code}\"}} {count}"
            ));
        }
        Reply::text(MEDIA_TYPE, text.0)
    }

    fn host_metrics(&self, text: &mut Text, backend: &dyn Backend) {
        let host = backend.host();
        text.family("skete_build_info", "gauge", "Version of the appliance.");
        text.line(format_args!(
            "skete_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ));
        text.family(
            "skete_uptime_seconds",
            "gauge",
            "Time since the hypervisor started.",
        );
        text.line(format_args!(
            "skete_uptime_seconds {}",
            seconds(self.now_ns)
        ));
        text.family(
            "skete_control_starts_total",
            "counter",
            "How often the control plane was started since the hypervisor was.",
        );
        text.line(format_args!(
            "skete_control_starts_total {}",
            backend.generation()
        ));
        text.family("skete_host_cores", "gauge", "Cores in use.");
        text.line(format_args!("skete_host_cores {}", host.cores));
        text.family(
            "skete_host_memory_bytes",
            "gauge",
            "RAM of the machine, by use.",
        );
        for (state, bytes) in [
            ("total", host.ram_bytes),
            ("free", host.free_bytes),
            ("core", host.core_bytes),
            ("root", host.root_bytes),
            ("granted", host.granted_bytes),
        ] {
            text.line(format_args!(
                "skete_host_memory_bytes{{state=\"{state}\"}} {bytes}"
            ));
        }
        text.family(
            "skete_api_connections",
            "gauge",
            "Connections being served.",
        );
        text.line(format_args!(
            "skete_api_connections {}",
            self.connections.used()
        ));
    }

    fn vm_metrics(&self, text: &mut Text, backend: &dyn Backend) {
        text.family(
            "skete_vm_state",
            "gauge",
            "1 for the state that the VM is in.",
        );
        for (name, vm) in &self.vms {
            for state in VmState::ALL {
                text.line(format_args!(
                    "skete_vm_state{{vm=\"{name}\",state=\"{}\"}} {}",
                    state.name(),
                    u8::from(vm.state() == state)
                ));
            }
        }
        text.family(
            "skete_vm_starts_total",
            "counter",
            "How often the VM was started.",
        );
        for (name, vm) in &self.vms {
            text.line(format_args!(
                "skete_vm_starts_total{{vm=\"{name}\"}} {}",
                vm.starts
            ));
        }
        text.family(
            "skete_vm_memory_bytes",
            "gauge",
            "Memory of the VM, by kind.",
        );
        for (name, vm) in &self.vms {
            let live = vm.run().map(|run| backend.vm_counters(run));
            let counters = live.as_ref().unwrap_or(&vm.counters);
            for (kind, bytes) in [
                ("configured", vm.spec.memory_bytes),
                ("resident", counters.resident_bytes),
                ("overhead", counters.overhead_bytes),
            ] {
                text.line(format_args!(
                    "skete_vm_memory_bytes{{vm=\"{name}\",kind=\"{kind}\"}} {bytes}"
                ));
            }
        }
        self.memory_metrics(text, backend);
        text.family(
            "skete_vm_vcpu_seconds_total",
            "counter",
            "Time that the VM's vCPUs spent on a core since its last start.",
        );
        for (name, vm) in &self.vms {
            let run_ns = vm
                .run()
                .map_or(vm.counters.run_ns, |run| backend.vm_counters(run).run_ns);
            text.line(format_args!(
                "skete_vm_vcpu_seconds_total{{vm=\"{name}\"}} {}",
                seconds(run_ns)
            ));
        }
        text.family(
            "skete_vm_stolen_seconds_total",
            "counter",
            "Time that the VM's vCPUs wanted to run and did not, since its last start.",
        );
        for (name, vm) in &self.vms {
            let live = vm.run().map(|run| backend.vm_counters(run).stolen_ns);
            text.line(format_args!(
                "skete_vm_stolen_seconds_total{{vm=\"{name}\"}} {}",
                seconds(live.unwrap_or(vm.counters.stolen_ns))
            ));
        }
        self.vcpu_metrics(text, backend);
        text.family(
            "skete_vm_exits_total",
            "counter",
            "Exits of the VM since its last start, by reason.",
        );
        for (name, vm) in &self.vms {
            let live = vm.run().map(|run| backend.vm_counters(run));
            let counters = live.as_ref().unwrap_or(&vm.counters);
            for (reason, count) in &counters.exits {
                text.line(format_args!(
                    "skete_vm_exits_total{{vm=\"{name}\",reason=\"{reason}\"}} {count}"
                ));
            }
        }
    }

    /// Of each vCPU, while its guest runs.
    fn vcpu_metrics(&self, text: &mut Text, backend: &dyn Backend) {
        text.family(
            "skete_vm_cpu_weight",
            "gauge",
            "Share of the machine that the VM has while others want it too.",
        );
        for (name, vm) in &self.vms {
            let weight = vm.spec.cpu.weight.unwrap_or(WEIGHT_DEFAULT);
            text.line(format_args!(
                "skete_vm_cpu_weight{{vm=\"{name}\"}} {weight}"
            ));
        }
        let mut vcpus = Vec::new();
        for (name, vm) in &self.vms {
            let counters = vm.run().map(|run| backend.vm_vcpus(run));
            vcpus.extend(
                (0_u32..)
                    .zip(counters.unwrap_or_default())
                    .map(|(n, one)| (name, n, one)),
            );
        }
        text.family(
            "skete_vcpu_seconds_total",
            "counter",
            "What a running VM's vCPU did with its time: run on a core, wait for an interrupt, \
             want to run and be in a queue or held for a device; fault is part of run.",
        );
        for (vm, n, one) in &vcpus {
            for (what, ns) in [
                ("run", one.run_ns),
                ("wait", one.wait_ns),
                ("queue", one.queue_ns),
                ("fault", one.fault_ns),
                ("device", one.device_ns),
            ] {
                text.line(format_args!(
                    "skete_vcpu_seconds_total{{vm=\"{vm}\",vcpu=\"{n}\",what=\"{what}\"}} {}",
                    seconds(ns)
                ));
            }
        }
        text.family(
            "skete_vcpu_core",
            "gauge",
            "The core that the vCPU of a running VM is on, or will be on next.",
        );
        for (vm, n, one) in vcpus
            .iter()
            .filter(|(_, _, one)| one.state != VcpuState::Off)
        {
            text.line(format_args!(
                "skete_vcpu_core{{vm=\"{vm}\",vcpu=\"{n}\"}} {}",
                one.core
            ));
        }
        text.family(
            "skete_vcpu_moves_total",
            "counter",
            "How often the vCPU of a running VM was put on another core.",
        );
        for (vm, n, one) in &vcpus {
            text.line(format_args!(
                "skete_vcpu_moves_total{{vm=\"{vm}\",vcpu=\"{n}\"}} {}",
                one.moves
            ));
        }
        text.family(
            "skete_vcpu_switches_total",
            "counter",
            "How often the vCPU of a running VM was put on a core.",
        );
        for (vm, n, one) in &vcpus {
            text.line(format_args!(
                "skete_vcpu_switches_total{{vm=\"{vm}\",vcpu=\"{n}\"}} {}",
                one.switches
            ));
        }
        text.family(
            "skete_vcpu_exits_total",
            "counter",
            "Exits of the vCPU of a running VM, by reason.",
        );
        for (vm, n, one) in &vcpus {
            for (reason, count) in &one.exits {
                text.line(format_args!(
                    "skete_vcpu_exits_total{{vm=\"{vm}\",vcpu=\"{n}\",reason=\"{reason}\"}} {count}"
                ));
            }
        }
    }

    /// What is only there while a guest runs.
    fn memory_metrics(&self, text: &mut Text, backend: &dyn Backend) {
        let views: Vec<_> = self
            .vms
            .iter()
            .filter_map(|(name, vm)| Some((name, backend.vm_memory(vm.run()?)?)))
            .collect();
        text.family(
            "skete_vm_memory_detail_bytes",
            "gauge",
            "Memory of a running VM: shared, touched lately, tables, keys and page states.",
        );
        for (name, memory) in &views {
            for (kind, bytes) in [
                ("shared", memory.shared_bytes),
                ("working_set", memory.working_set_bytes),
                ("tables", memory.table_bytes),
                ("sidecar", memory.sidecar_bytes),
            ] {
                text.line(format_args!(
                    "skete_vm_memory_detail_bytes{{vm=\"{name}\",kind=\"{kind}\"}} {bytes}"
                ));
            }
        }
        text.family(
            "skete_vm_memory_leaves",
            "gauge",
            "Stage-2 leaves of a running VM, by size in bytes.",
        );
        for (name, memory) in &views {
            for (size, count) in ["4096", "2097152", "1073741824"].iter().zip(&memory.leaves) {
                text.line(format_args!(
                    "skete_vm_memory_leaves{{vm=\"{name}\",size=\"{size}\"}} {count}"
                ));
            }
        }
        text.family(
            "skete_vm_stage2_faults_total",
            "counter",
            "Stage-2 faults of the VM since its last start; minor: only a flag was missing.",
        );
        for (name, memory) in &views {
            let minor = memory.minor_faults;
            let major = memory.faults.saturating_sub(minor);
            for (kind, count) in [("major", major), ("minor", minor)] {
                text.line(format_args!(
                    "skete_vm_stage2_faults_total{{vm=\"{name}\",kind=\"{kind}\"}} {count}"
                ));
            }
        }
        text.family(
            "skete_vm_memory_reclaimed_bytes_total",
            "counter",
            "RAM that the VM gave back since its last start.",
        );
        for (name, memory) in &views {
            text.line(format_args!(
                "skete_vm_memory_reclaimed_bytes_total{{vm=\"{name}\"}} {}",
                memory.reclaimed_bytes
            ));
        }
    }
}
