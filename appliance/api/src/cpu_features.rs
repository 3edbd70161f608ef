//! Features of the CPU that a VM may have or not.

use serde::{Deserialize, Serialize};

/// Which features a VM has. One that is left out it has if the machine has it; `true` asks for
/// it, and `false` hides it, from ID registers to instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuFeatures {
    /// The Scalable Vector Extension, with vectors of up to 512 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sve: Option<bool>,
    /// Pointer authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pauth: Option<bool>,
    /// Performance monitors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pmu: Option<bool>,
}

impl CpuFeatures {
    /// Names, as on the wire and on the command line.
    pub const NAMES: [&'static str; 3] = ["sve", "pauth", "pmu"];

    /// Returns whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns each with its name.
    pub const fn named(&self) -> [(&'static str, Option<bool>); 3] {
        let [sve, pauth, pmu] = Self::NAMES;
        [(sve, self.sve), (pauth, self.pauth), (pmu, self.pmu)]
    }

    /// Sets the one of this name; false if there is none.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let place = match name {
            "sve" => &mut self.sve,
            "pauth" => &mut self.pauth,
            "pmu" => &mut self.pmu,
            _ => return false,
        };
        *place = Some(on);
        true
    }

    /// Returns what a VM that asks for this has on a machine that has `machine`.
    #[must_use]
    pub fn on(&self, machine: &Self) -> Self {
        let mut has = Self::default();
        for ((name, wanted), (_, there)) in self.named().into_iter().zip(machine.named()) {
            let there = there.unwrap_or(false);
            has.set(name, there && wanted.unwrap_or(true));
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_what_the_machine_has() {
        let mut machine = CpuFeatures::default();
        machine.set("sve", true);
        machine.set("pmu", true);
        let mut wanted = CpuFeatures::default();
        assert!(wanted.is_empty());
        wanted.set("pmu", false);
        wanted.set("pauth", true);
        let has = wanted.on(&machine);
        assert_eq!(has.sve, Some(true));
        assert_eq!(has.pmu, Some(false));
        assert_eq!(has.pauth, Some(false));
    }

    #[test]
    fn every_name_can_be_set_and_no_other() {
        for name in CpuFeatures::NAMES {
            let mut features = CpuFeatures::default();
            assert!(features.set(name, true));
            let set = features.named().into_iter().find(|(_, on)| on.is_some());
            assert_eq!(set, Some((name, Some(true))));
        }
        assert!(!CpuFeatures::default().set("sme", true));
    }
}
