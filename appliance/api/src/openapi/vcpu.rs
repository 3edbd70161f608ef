//! `/v1/vms/{name}/cpu`.

use schemars::SchemaGenerator;

use super::{Content, Entry, entry, reference};
use crate::{Code, CpuChange, VmCpu};

pub(super) fn entries(schemas: &mut SchemaGenerator) -> [Entry; 2] {
    let path = "/v1/vms/{name}/cpu";
    let cpu = reference::<VmCpu>(schemas);
    [
        Entry {
            refusals: &[Code::VmNotFound],
            ..entry(
                path,
                "GET",
                "get_cpu",
                "A VM's share of the machine, and where its vCPUs run and what they did",
                [(200, Content::Json(cpu.clone()))].into(),
            )
        },
        Entry {
            parameters: &[("If-Match", "ETag of the definition that is changed")],
            takes: Content::Json(reference::<CpuChange>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::VmNotFound,
                Code::VmRunning,
                Code::PreconditionFailed,
                Code::UnsupportedMediaType,
                Code::Invalid,
            ],
            ..entry(
                path,
                "PATCH",
                "set_cpu",
                "Changes a VM's share, its limit, where its vCPUs may run, at once and in its \
                 definition; what its guest finds, while it does not run",
                [(200, Content::Json(cpu))].into(),
            )
        },
    ]
}
