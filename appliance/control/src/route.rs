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
    /// `/v1`.
    Info,
    /// `/v1/images`.
    Images,
    /// `/v1/images/{name}`.
    Image(&'a str),
    /// `/v1/images/{name}/data`.
    ImageData(&'a str),
    /// `/v1/vms`.
    Vms,
    /// `/v1/vms/{name}`.
    Vm(&'a str),
    /// `/v1/vms/{name}/actions`.
    VmActions(&'a str),
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
            (Some("v1"), None | Some(""), None, ..) => Self::Info,
            (Some("v1"), Some("images"), None, ..) => Self::Images,
            (Some("v1"), Some("images"), Some(name), None, ..) => Self::Image(name),
            (Some("v1"), Some("images"), Some(name), Some("data"), None, _) => {
                Self::ImageData(name)
            }
            (Some("v1"), Some("vms"), None, ..) => Self::Vms,
            (Some("v1"), Some("vms"), Some(name), None, ..) => Self::Vm(name),
            (Some("v1"), Some("vms"), Some(name), Some("actions"), None, _) => {
                Self::VmActions(name)
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
            | Self::Info
            | Self::Images
            | Self::Vms
            | Self::Events
            | Self::Operations
            | Self::Operation(_)
            | Self::ConsoleLog(_) => &[Get, Head],
            Self::Console(_) => &[Get],
            Self::Image(_) | Self::Vm(_) => &[Get, Head, Put, Delete],
            Self::ImageData(_) => &[Head, Put, Patch],
            Self::VmActions(_) | Self::ConsoleInput(_) | Self::SystemActions => &[Post],
        }
    }

    /// Returns the path with names left out, for counting requests.
    pub(crate) const fn pattern(self) -> &'static str {
        match self {
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Info => "/v1",
            Self::Images => "/v1/images",
            Self::Image(_) => "/v1/images/{name}",
            Self::ImageData(_) => "/v1/images/{name}/data",
            Self::Vms => "/v1/vms",
            Self::Vm(_) => "/v1/vms/{name}",
            Self::VmActions(_) => "/v1/vms/{name}/actions",
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
