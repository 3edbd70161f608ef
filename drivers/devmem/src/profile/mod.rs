//! What is known of kinds of devices.

pub mod generic;
pub mod nvgrace_gpu;
pub mod nvme;

use crate::ready::ReadyPolicy;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Any PCI function.
    Generic,
    /// An NVMe controller.
    Nvme,
    /// An NVIDIA Grace-based GPU, whose memory trains after a reset.
    NvgraceGpu,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Generic, Self::Nvme, Self::NvgraceGpu];

    /// Returns how such a device says that it is ready.
    pub const fn policy(self) -> ReadyPolicy {
        match self {
            Self::Generic => generic::POLICY,
            Self::Nvme => nvme::POLICY,
            Self::NvgraceGpu => nvgrace_gpu::POLICY,
        }
    }

    /// Its name on the control port.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Nvme => "nvme",
            Self::NvgraceGpu => "nvgrace-gpu",
        }
    }

    /// Returns the profile with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}
