//! What to ask of QEMU: one command line, pinned here for tests, demo and bench alike.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

/// A CPU model that the appliance is tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// Everything that QEMU can emulate: HAFDBS, BBM level 2, FWB, NV2, LPA2.
    Max,
    /// Armv8.0 and none of these.
    CortexA72,
    /// Armv8.2: VHE, LSE, HAFDBS.
    NeoverseN1,
}

impl Cpu {
    /// Every model.
    pub const ALL: [Self; 3] = [Self::Max, Self::CortexA72, Self::NeoverseN1];
    /// The models that tests and bench run on.
    pub const TESTED: [Self; 2] = [Self::Max, Self::CortexA72];

    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::CortexA72 => "cortex-a72",
            Self::NeoverseN1 => "neoverse-n1",
        }
    }

    /// What QEMU's `-cpu` takes.
    const fn qemu(self) -> &'static str {
        match self {
            // The architected pointer-authentication cipher costs QEMU most of its time.
            Self::Max => "max,pauth-impdef=on",
            Self::CortexA72 => "cortex-a72",
            Self::NeoverseN1 => "neoverse-n1",
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cpu {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|cpu| cpu.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("no such CPU; there are {names}")
            })
    }
}

/// A machine to be: QEMU's `virt` board with EL2, GICv3 and virtio-mmio.
#[derive(Clone, Debug)]
pub struct Board {
    /// CPU model.
    pub cpu: Cpu,
    /// Number of CPUs.
    pub smp: u32,
    /// RAM, as QEMU's `-m` takes it.
    pub memory: String,
    /// What is started: an arm64 `Image` or an ELF.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Boot arguments.
    pub append: String,
    /// Whether the machine has EL2. Without, it is what a guest of ours sees.
    pub el2: bool,
    /// TCP port on 127.0.0.1 that leads to [`crate::PORT_INSIDE`] of the machine, with a NIC.
    pub control_port: Option<u16>,
    /// Virtual time counts instructions, one a nanosecond, and nothing is random.
    pub counted: bool,
    /// A reset ends QEMU instead.
    pub reset_ends: bool,
    /// GICv3; older guests of the appliance's refusal test ask for 2.
    pub gic: u32,
    /// Anything else.
    pub more: Vec<String>,
}

impl Board {
    /// A board with two CPUs and 2 GiB that starts `kernel`.
    pub fn new(cpu: Cpu, kernel: PathBuf) -> Self {
        Self {
            cpu,
            smp: 2,
            memory: "2G".to_owned(),
            kernel,
            initrd: None,
            append: String::new(),
            el2: true,
            control_port: None,
            counted: false,
            reset_ends: true,
            gic: 3,
            more: Vec::new(),
        }
    }

    /// The arguments that describe the machine; serial line and monitor are the caller's.
    pub fn arguments(&self) -> Vec<String> {
        let mut machine = format!("virt,gic-version={}", self.gic);
        if self.el2 {
            machine.push_str(",virtualization=on");
        }
        if self.counted {
            // Removes both kaslr-seed and rng-seed, so that two runs count the same.
            machine.push_str(",dtb-randomness=off");
        }
        let mut line: Vec<String> = [
            "-M",
            &machine,
            "-cpu",
            self.cpu.qemu(),
            "-smp",
            &self.smp.to_string(),
            "-m",
            &self.memory,
            "-nodefaults",
            "-display",
            "none",
            "-global",
            "virtio-mmio.force-legacy=false",
            "-kernel",
            &self.kernel.to_string_lossy(),
        ]
        .map(str::to_owned)
        .into();
        let mut push = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
        if let Some(initrd) = &self.initrd {
            push(&["-initrd", &initrd.to_string_lossy()]);
        }
        if !self.append.is_empty() {
            push(&["-append", &self.append]);
        }
        if let Some(port) = self.control_port {
            let inside = crate::PORT_INSIDE;
            push(&[
                "-netdev",
                &format!("user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:{inside}"),
                "-device",
                "virtio-net-device,netdev=net0",
                "-device",
                "virtio-rng-device",
            ]);
        }
        if self.counted {
            push(&[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ]);
        }
        if self.reset_ends {
            push(&["-no-reboot"]);
        }
        line.extend(self.more.iter().cloned());
        line
    }

    /// QEMU, to be started as a child that does not outlive the thread that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-aarch64"])
            .args(self.arguments());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_named_as_on_the_command_line() {
        assert_eq!("cortex-a72".parse(), Ok(Cpu::CortexA72));
        assert!("cortex-a53".parse::<Cpu>().is_err());
    }

    #[test]
    fn a_counted_board_has_neither_seed_nor_threads() {
        let mut board = Board::new(Cpu::Max, "k".into());
        let line = board.arguments().join(" ");
        assert!(!line.contains("dtb-randomness") && !line.contains("icount"));
        board.counted = true;
        let line = board.arguments().join(" ");
        assert!(line.contains("dtb-randomness=off"));
        assert!(line.contains("-icount shift=0,sleep=off"));
        assert!(line.contains("thread=single"));
    }
}
