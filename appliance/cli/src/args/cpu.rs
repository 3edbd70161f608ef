//! The command line of `skete vm cpu`, and what of it `skete vm create` has too.

use clap::{Args, Subcommand, ValueEnum};
use skete_client::api::limits::{CPU_LIMIT_PERCENT_MAX, WEIGHT_MAX, WEIGHT_MIN};
use skete_client::api::{GuestFeature, Pin};

use super::name;

#[derive(Debug, Subcommand)]
pub(crate) enum CpuCommand {
    /// Show a VM's share of the machine, where its vCPUs run and what they did with their time.
    Show {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
    },
    /// Change a VM's share, at once and in its definition.
    Set {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        share: Share,
        /// Hide a service of the hypervisor from the guest, instead of what was hidden before;
        /// `none` hides nothing. Only while the VM does not run.
        #[arg(long, value_enum, value_name = "FEATURE", value_delimiter = ',')]
        hide: Vec<Hide>,
    },
    /// Say on which cores a vCPU may run, at once and in the definition.
    Pin {
        /// Name of the VM.
        #[arg(value_parser = name)]
        name: String,
        /// Which vCPU, from 0.
        vcpu: u32,
        /// Cores of the machine, such as 1 or 0,2-3; `any` for all.
        #[arg(value_parser = cores)]
        cores: Cores,
    },
}

/// A VM's share.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Share {
    /// Share of the machine while others want it too, 1 to 10000 [a new VM has: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(i64::from(WEIGHT_MIN)..=i64::from(WEIGHT_MAX)))]
    pub(crate) weight: Option<u32>,
    /// Most that all its vCPUs together may run, in per cent of one core, such as 150; `none`
    /// for no limit.
    #[arg(long = "cpu-limit", value_name = "PERCENT", value_parser = percent)]
    pub(crate) limit: Option<u32>,
}

/// How the vCPUs of a new VM are to run.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NewCpu {
    #[command(flatten)]
    pub(crate) share: Share,
    /// Cores that a vCPU may run on, such as 0=1 or 1=0,2-3.
    #[arg(long = "pin", value_name = "VCPU=CORES", value_parser = pin)]
    pub(crate) pins: Vec<Pin>,
    /// Hide a service of the hypervisor from the guest.
    #[arg(long, value_enum, value_name = "FEATURE", value_delimiter = ',')]
    pub(crate) hide: Vec<Hide>,
}

/// What can be hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hide {
    /// Nothing.
    None,
    /// Stolen time, and with it the preempt hint.
    StolenTime,
    /// The hint that a vCPU was switched out against its will.
    PreemptHint,
    /// Page states.
    PageStates,
    /// Storage keys.
    StorageKeys,
    /// The call that hands a turn to another vCPU.
    YieldTo,
    /// The number of the core that a vCPU is on.
    CoreNumber,
}

impl Hide {
    /// Returns what a list of options hides.
    pub(crate) fn features(list: &[Self]) -> Vec<GuestFeature> {
        list.iter()
            .filter_map(|hide| match hide {
                Self::None => None,
                Self::StolenTime => Some(GuestFeature::StolenTime),
                Self::PreemptHint => Some(GuestFeature::PreemptHint),
                Self::PageStates => Some(GuestFeature::PageStates),
                Self::StorageKeys => Some(GuestFeature::StorageKeys),
                Self::YieldTo => Some(GuestFeature::YieldTo),
                Self::CoreNumber => Some(GuestFeature::CoreNumber),
            })
            .collect()
    }
}

/// Cores of the machine; none for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) Vec<u32>);

/// No machine has more.
const CORES_MAX: u32 = 1024;

/// Reads a list such as `0,2-3`, or `any`.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    let wrong = || format!("'{text}' is no list of cores: write for example 1, or 0,2-3, or any");
    if text == "any" {
        return Ok(Cores::default());
    }
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|core| *core < CORES_MAX);
        let (first, last) = (number(first), number(last));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(wrong());
        };
        if first > last {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(Cores(all))
}

fn pin(text: &str) -> Result<Pin, String> {
    let parts = text.split_once('=');
    let parts = parts.and_then(|(vcpu, list)| Some((vcpu.parse().ok()?, list)));
    let (vcpu, list) =
        parts.ok_or_else(|| format!("'{text}' pins no vCPU: write for example 0=1, or 1=0,2-3"))?;
    Ok(Pin {
        vcpu,
        cores: cores(list)?.0,
    })
}

fn percent(text: &str) -> Result<u32, String> {
    if text == "none" {
        return Ok(0);
    }
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u32>();
    number
        .ok()
        .filter(|percent| (1..=CPU_LIMIT_PERCENT_MAX).contains(percent))
        .ok_or_else(|| {
            format!(
                "'{text}' is not 1 to {CPU_LIMIT_PERCENT_MAX} per cent of one core, or none for \
                 no limit"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_and_nonsense_is_refused() {
        let list = |text: &str| cores(text).map(|cores| cores.0);
        assert_eq!(list("any"), Ok(vec![]));
        assert_eq!(list("3,0-1,1"), Ok(vec![0, 1, 3]));
        for wrong in ["", ",", "1-", "3-1", "-1", "all", "0x1", "0-4000000000"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_is_per_cent_of_one_core() {
        assert_eq!((percent("150"), percent("50%")), (Ok(150), Ok(50)));
        assert_eq!(percent("none"), Ok(0));
        for wrong in ["", "0", "10001", "-1", "half"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
