//! The paths that exist, and which methods apply to each.

use crate::http::head::Method;

/// A path that exists, with the names in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/healthz`: the server runs. Needs no token.
    Healthz,
    /// `/readyz`: the server is ready to serve. Needs no token.
    Readyz,
    /// `/metrics`.
    Metrics,
    /// `/openapi.json`.
    OpenApi,
    /// `/v1`.
    Info,
    /// `/v1/images`.
    Images,
    /// `/v1/images/{name}`.
    Image(&'a str),
    /// `/v1/images/{name}/data`.
    ImageData(&'a str),
    /// `/v1/devices`.
    Devices,
    /// `/v1/devices/{pci}/actions`.
    DeviceActions(&'a str),
    /// `/v1/vms`.
    Vms,
    /// `/v1/vms/{name}`.
    Vm(&'a str),
    /// `/v1/vms/{name}/actions`.
    VmActions(&'a str),
    /// `/v1/vms/{name}/cpu`.
    VmCpu(&'a str),
    /// `/v1/vms/{name}/memory`.
    VmMemory(&'a str),
    /// `/v1/vms/{name}/memory/actions`.
    VmMemoryActions(&'a str),
    /// `/v1/vms/{name}/console`.
    Console(&'a str),
    /// `/v1/vms/{name}/console/log`.
    ConsoleLog(&'a str),
    /// `/v1/vms/{name}/console/input`.
    ConsoleInput(&'a str),
    /// `/v1/events`.
    Events,
    /// `/v1/operations`.
    Operations,
    /// `/v1/operations/{id}`.
    Operation(&'a str),
    /// `/v1/system/actions`.
    SystemActions,
}

impl<'a> Route<'a> {
    /// Returns what is at `path`. Names are not checked here: one that cannot exist is
    /// simply not found.
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let mut part = || parts.next();
        let segments = (part(), part(), part(), part(), part(), part());
        Some(match segments {
            (Some("healthz"), None, ..) => Self::Healthz,
            (Some("readyz"), None, ..) => Self::Readyz,
            (Some("metrics"), None, ..) => Self::Metrics,
            (Some("openapi.json"), None, ..) => Self::OpenApi,
            (Some("v1"), None | Some(""), None, ..) => Self::Info,
            (Some("v1"), Some("images"), None, ..) => Self::Images,
            (Some("v1"), Some("images"), Some(name), None, ..) => Self::Image(name),
            (Some("v1"), Some("images"), Some(name), Some("data"), None, _) => {
                Self::ImageData(name)
            }
            (Some("v1"), Some("devices"), None, ..) => Self::Devices,
            (Some("v1"), Some("devices"), Some(pci), Some("actions"), None, _) => {
                Self::DeviceActions(pci)
            }
            (Some("v1"), Some("vms"), None, ..) => Self::Vms,
            (Some("v1"), Some("vms"), Some(name), None, ..) => Self::Vm(name),
            (Some("v1"), Some("vms"), Some(name), Some("actions"), None, _) => {
                Self::VmActions(name)
            }
            (Some("v1"), Some("vms"), Some(name), Some("cpu"), None, _) => Self::VmCpu(name),
            (Some("v1"), Some("vms"), Some(name), Some("memory"), None, _) => Self::VmMemory(name),
            (Some("v1"), Some("vms"), Some(name), Some("memory"), Some("actions"), None) => {
                Self::VmMemoryActions(name)
            }
            (Some("v1"), Some("vms"), Some(name), Some("console"), None, _) => Self::Console(name),
            (Some("v1"), Some("vms"), Some(name), Some("console"), Some("log"), None) => {
                Self::ConsoleLog(name)
            }
            (Some("v1"), Some("vms"), Some(name), Some("console"), Some("input"), None) => {
                Self::ConsoleInput(name)
            }
            (Some("v1"), Some("events"), None, ..) => Self::Events,
            (Some("v1"), Some("operations"), None, ..) => Self::Operations,
            (Some("v1"), Some("operations"), Some(id), None, ..) => Self::Operation(id),
            (Some("v1"), Some("system"), Some("actions"), None, ..) => Self::SystemActions,
            _ => return None,
        })
    }

    /// Returns the methods that apply, OPTIONS aside, which always does.
    pub(crate) const fn methods(self) -> &'static [Method] {
        use Method::{Delete, Get, Head, Patch, Post, Put};
        match self {
            Self::Healthz
            | Self::Readyz
            | Self::Metrics
            | Self::OpenApi
            | Self::Info
            | Self::Images
            | Self::Devices
            | Self::Vms
            | Self::Events
            | Self::Operations
            | Self::Operation(_)
            | Self::ConsoleLog(_) => &[Get, Head],
            Self::Console(_) => &[Get],
            Self::Image(_) | Self::Vm(_) => &[Get, Head, Put, Delete],
            Self::ImageData(_) => &[Head, Put, Patch],
            Self::VmCpu(_) | Self::VmMemory(_) => &[Get, Head, Patch],
            Self::VmActions(_)
            | Self::VmMemoryActions(_)
            | Self::DeviceActions(_)
            | Self::ConsoleInput(_)
            | Self::SystemActions => &[Post],
        }
    }

    /// Returns the path with names left out, for counting requests.
    pub(crate) const fn pattern(self) -> &'static str {
        match self {
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Info => "/v1",
            Self::Images => "/v1/images",
            Self::Image(_) => "/v1/images/{name}",
            Self::ImageData(_) => "/v1/images/{name}/data",
            Self::Devices => "/v1/devices",
            Self::DeviceActions(_) => "/v1/devices/{pci}/actions",
            Self::Vms => "/v1/vms",
            Self::Vm(_) => "/v1/vms/{name}",
            Self::VmActions(_) => "/v1/vms/{name}/actions",
            Self::VmCpu(_) => "/v1/vms/{name}/cpu",
            Self::VmMemory(_) => "/v1/vms/{name}/memory",
            Self::VmMemoryActions(_) => "/v1/vms/{name}/memory/actions",
            Self::Console(_) => "/v1/vms/{name}/console",
            Self::ConsoleLog(_) => "/v1/vms/{name}/console/log",
            Self::ConsoleInput(_) => "/v1/vms/{name}/console/input",
            Self::Events => "/v1/events",
            Self::Operations => "/v1/operations",
            Self::Operation(_) => "/v1/operations/{id}",
            Self::SystemActions => "/v1/system/actions",
        }
    }

    /// Returns whether anyone may ask, without a token.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Healthz | Self::Readyz)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Method, Route};

    #[test]
    fn the_document_and_the_server_agree_on_every_path_and_method() {
        let documented = api::openapi::routes();
        for (path, _) in &documented {
            let real = path
                .replace("{name}", "web")
                .replace("{id}", "op-1")
                .replace("{pci}", "0000:00:02.0");
            let route = Route::parse(&real).expect("a documented path exists");
            assert_eq!(route.pattern(), *path);
            let said: Vec<&str> = documented
                .iter()
                .filter(|(p, _)| p == path)
                .map(|(_, method)| *method)
                .collect();
            // Where GET applies, HEAD does too, and needs no words.
            let served: Vec<&str> = route
                .methods()
                .iter()
                .filter(|method| {
                    **method != Method::Head || !route.methods().contains(&Method::Get)
                })
                .map(|method| method.name())
                .collect();
            assert_eq!(said, served, "{path}");
        }
        let paths: Vec<&str> = documented.iter().map(|(path, _)| *path).collect();
        for pattern in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/v1",
            "/v1/images",
            "/v1/images/{name}",
            "/v1/images/{name}/data",
            "/v1/devices",
            "/v1/devices/{pci}/actions",
            "/v1/vms",
            "/v1/vms/{name}",
            "/v1/vms/{name}/actions",
            "/v1/vms/{name}/cpu",
            "/v1/vms/{name}/memory",
            "/v1/vms/{name}/memory/actions",
            "/v1/vms/{name}/console",
            "/v1/vms/{name}/console/log",
            "/v1/vms/{name}/console/input",
            "/v1/events",
            "/v1/operations",
            "/v1/operations/{id}",
            "/v1/system/actions",
        ] {
            assert!(paths.contains(&pattern), "{pattern}");
        }
    }

    #[test]
    fn near_misses_are_not_found() {
        for path in [
            "",
            "v1",
            "/",
            "//",
            "/v2",
            "/v1//",
            "/v1/vms/",
            "/v1/vms/a/",
            "/v1/vms/a/b",
            "/v1/vms/a/console/log/x",
            "/v1/images/a/data/x",
            "/V1",
            "/v1/vms/a/console/",
            "/healthz/",
            "/v1/system",
            "*",
        ] {
            let found = Route::parse(path);
            // An empty name is a name that nothing has.
            let nameless = matches!(found, Some(Route::Vm("")));
            assert!(found.is_none() || nameless, "{path:?}: {found:?}");
        }
    }
}
