//! The OpenAPI 3.1 document, made from the types. Developer's machine only.

mod image;
mod vcpu;

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    ActionRequest, Code, DeviceData, DeviceList, DeviceRequest, Event, Memory, MemoryDone,
    MemoryPolicy, MemoryRequest, Operation, OperationList, PowerRequest, Problem, ServerInfo, Vm,
    VmList, VmSpec,
};

/// What an operation takes or gives.
enum Content {
    /// Nothing.
    None,
    /// JSON of a type, by reference.
    Json(Value),
    /// Bytes of a media type.
    Bytes(&'static str),
}

/// One method of one path.
struct Entry {
    path: &'static str,
    method: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Query and header parameters: `?name` or `Header-Name`, and what they mean.
    parameters: &'static [(&'static str, &'static str)],
    takes: Content,
    /// Statuses of success, what comes with them.
    gives: Vec<(u16, Content)>,
    refusals: &'static [Code],
}

const WAIT: (&str, &str) = (
    "Prefer",
    "wait=N: wait up to N seconds for the operation, at most 60; 1 if it is left out",
);
const KEY: (&str, &str) = (
    "Idempotency-Key",
    "A retry with the same key within ten minutes gets the first answer",
);
const UNTIL: (&str, &str) = (
    "?until",
    "stopped: end once the VM has stopped and all it printed was sent; one that is stopped \
     already is waited for until it has run",
);
const DIGEST: (&str, &str) = (
    "Repr-Digest",
    "sha-256=:BASE64: of the whole image (RFC 9530), checked before the image is ready",
);

/// Returns the document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let problem = reference::<Problem>(&mut schemas);
    // The lines of the event stream carry this; no body is one.
    reference::<Event>(&mut schemas);
    let mut paths = Map::new();
    for entry in entries(&mut schemas) {
        let path = paths
            .entry(entry.path)
            .or_insert_with(|| path_item(entry.path));
        if let Some(path) = path.as_object_mut() {
            path.insert(entry.method.to_lowercase(), operation(entry, &problem));
        }
    }
    let schemas = schemas.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Skete control port",
            "version": "v1",
            "description": "Manages the virtual machines of one Skete appliance. Unknown request \
                fields are refused; clients must ignore unknown response fields. Every error is \
                RFC 9457 problem+json.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8080" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

/// Returns the paths of the document and the methods of each, for a test of the server.
pub fn routes() -> Vec<(&'static str, &'static str)> {
    let mut schemas = SchemaGenerator::default();
    entries(&mut schemas)
        .into_iter()
        .map(|entry| (entry.path, entry.method))
        .collect()
}

fn reference<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

fn path_item(path: &str) -> Value {
    let names: Vec<Value> = ["name", "id", "pci"]
        .into_iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect();
    if names.is_empty() {
        json!({})
    } else {
        json!({ "parameters": names })
    }
}

fn operation(entry: Entry, problem: &Value) -> Value {
    let parameters: Vec<Value> = entry
        .parameters
        .iter()
        .map(|(name, meaning)| {
            let place = if name.starts_with('?') {
                "query"
            } else {
                "header"
            };
            json!({
                "name": name.trim_start_matches('?'),
                "in": place,
                "description": meaning,
                "schema": { "type": "string" },
            })
        })
        .collect();
    let mut responses = Map::new();
    for (status, content) in entry.gives {
        let mut response = json!({ "description": status_meaning(status) });
        if let (Some(response), Some(content)) = (response.as_object_mut(), media(content)) {
            response.insert("content".into(), content);
        }
        responses.insert(status.to_string(), response);
    }
    let open = matches!(entry.path, "/healthz" | "/readyz");
    let common: &[Code] = if open { &[] } else { &[Code::Unauthorized] };
    for code in common.iter().chain(entry.refusals) {
        let response = responses.entry(code.status().to_string()).or_insert_with(
            || json!({ "description": "", "content": { crate::problem::MEDIA_TYPE: { "schema": problem } } }),
        );
        if let Some(text) = response.get_mut("description") {
            let before = text.as_str().unwrap_or_default();
            let gap = if before.is_empty() { "" } else { " " };
            *text = format!("{before}{gap}`{}`: {}", code.name(), code.title()).into();
        }
    }
    let mut operation = json!({
        "operationId": entry.id,
        "summary": entry.summary,
        "responses": responses,
    });
    if let Some(fields) = operation.as_object_mut() {
        if !parameters.is_empty() {
            fields.insert("parameters".into(), parameters.into());
        }
        if let Some(content) = media(entry.takes) {
            fields.insert(
                "requestBody".into(),
                json!({ "required": true, "content": content }),
            );
        }
        if open {
            fields.insert("security".into(), json!([]));
        }
    }
    operation
}

fn media(content: Content) -> Option<Value> {
    match content {
        Content::None => None,
        Content::Json(schema) => Some(json!({ "application/json": { "schema": schema } })),
        Content::Bytes(media_type) => Some(json!({ media_type: {} })),
    }
}

const fn status_meaning(status: u16) -> &'static str {
    match status {
        101 => "The connection now carries the console's bytes, both ways.",
        201 => "Created.",
        202 => "Begun; Location names the operation.",
        204 => "Done.",
        _ => "OK.",
    }
}

/// An operation without parameters, body and refusals of its own.
fn entry(
    path: &'static str,
    method: &'static str,
    id: &'static str,
    summary: &'static str,
    gives: Vec<(u16, Content)>,
) -> Entry {
    Entry {
        path,
        method,
        id,
        summary,
        parameters: &[],
        takes: Content::None,
        gives,
        refusals: &[],
    }
}

fn entries(schemas: &mut SchemaGenerator) -> Vec<Entry> {
    let mut all = most_entries(schemas);
    all.extend(image::entries(schemas));
    all.extend(vcpu::entries(schemas));
    all
}

#[expect(
    clippy::too_many_lines,
    reason = "a table: every path and method of the API, one after another"
)]
fn most_entries(schemas: &mut SchemaGenerator) -> Vec<Entry> {
    use Content::{Bytes, Json, None};
    let vm = reference::<Vm>(schemas);
    let operation = reference::<Operation>(schemas);
    let text = "text/plain";
    let info = Json(reference::<ServerInfo>(schemas));
    let vms = Json(reference::<VmList>(schemas));
    let operations = Json(reference::<OperationList>(schemas));
    let power = reference::<PowerRequest>(schemas);
    let devices = Json(reference::<DeviceList>(schemas));
    let memory = reference::<Memory>(schemas);
    vec![
        entry(
            "/healthz",
            "GET",
            "healthz",
            "Whether the server runs",
            [(200, Bytes(text))].into(),
        ),
        entry(
            "/readyz",
            "GET",
            "readyz",
            "Whether the server serves",
            [(200, Bytes(text))].into(),
        ),
        entry(
            "/metrics",
            "GET",
            "metrics",
            "Metrics in Prometheus' text format",
            [(200, Bytes(text))].into(),
        ),
        entry(
            "/openapi.json",
            "GET",
            "openapi",
            "This document",
            [(200, Bytes("application/json"))].into(),
        ),
        entry(
            "/v1",
            "GET",
            "info",
            "The server and the machine",
            [(200, info)].into(),
        ),
        entry(
            "/v1/devices",
            "GET",
            "list_devices",
            "Every PCI function that a VM can have",
            [(200, devices)].into(),
        ),
        Entry {
            takes: Json(reference::<DeviceRequest>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::DeviceNotFound,
                Code::DeviceOff,
                Code::DeviceBusy,
                Code::DeviceNotReady,
                Code::UnsupportedMediaType,
                Code::Invalid,
            ],
            ..entry(
                "/v1/devices/{pci}/actions",
                "POST",
                "act_on_device",
                "Resets a device that a VM has, takes part of it away for a moment, reads or \
                 writes it",
                [(200, Json(reference::<DeviceData>(schemas))), (204, None)].into(),
            )
        },
        Entry {
            refusals: &[Code::VmNotFound, Code::VmNotRunning],
            ..entry(
                "/v1/vms/{name}/memory",
                "GET",
                "get_memory",
                "What the memory of a running VM is made of",
                [(200, Json(memory.clone()))].into(),
            )
        },
        Entry {
            takes: Json(reference::<MemoryPolicy>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::VmNotFound,
                Code::VmNotRunning,
                Code::UnsupportedMediaType,
                Code::Invalid,
            ],
            ..entry(
                "/v1/vms/{name}/memory",
                "PATCH",
                "set_memory_policy",
                "Changes what the memory of a running VM may be made of",
                [(200, Json(memory))].into(),
            )
        },
        Entry {
            parameters: &[KEY],
            takes: Json(reference::<MemoryRequest>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::VmNotFound,
                Code::VmNotRunning,
                Code::MemoryFacilityOff,
                Code::VmBusy,
                Code::UnsupportedMediaType,
                Code::Invalid,
                Code::NoMemory,
            ],
            ..entry(
                "/v1/vms/{name}/memory/actions",
                "POST",
                "act_on_memory",
                "Scans the memory of a running VM, takes some back, reads or writes its storage \
                 keys and page states",
                [(200, Json(reference::<MemoryDone>(schemas)))].into(),
            )
        },
        entry(
            "/v1/vms",
            "GET",
            "list_vms",
            "Every VM",
            [(200, vms)].into(),
        ),
        Entry {
            refusals: &[Code::VmNotFound],
            ..entry(
                "/v1/vms/{name}",
                "GET",
                "get_vm",
                "A VM",
                [(200, Json(vm.clone()))].into(),
            )
        },
        Entry {
            parameters: &[
                ("If-Match", "ETag of the definition that is replaced"),
                ("If-None-Match", "*: only if there is none"),
            ],
            takes: Json(reference::<VmSpec>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::NameTaken,
                Code::VmRunning,
                Code::PreconditionFailed,
                Code::UnsupportedMediaType,
                Code::Invalid,
                Code::NoMemory,
                Code::TableFull,
            ],
            ..entry(
                "/v1/vms/{name}",
                "PUT",
                "put_vm",
                "Defines a VM; changes one only with If-Match",
                [(200, Json(vm.clone())), (201, Json(vm.clone()))].into(),
            )
        },
        Entry {
            parameters: &[
                ("?force", "true: stop it first if it runs"),
                ("If-Match", "ETag of the definition that is deleted"),
                WAIT,
            ],
            refusals: &[
                Code::BadQuery,
                Code::VmNotFound,
                Code::VmRunning,
                Code::PreconditionFailed,
            ],
            ..entry(
                "/v1/vms/{name}",
                "DELETE",
                "delete_vm",
                "Deletes a VM",
                [(202, Json(operation.clone())), (204, None)].into(),
            )
        },
        Entry {
            parameters: &[WAIT, KEY],
            takes: Json(reference::<ActionRequest>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::VmNotFound,
                Code::VmBusy,
                Code::VmNotRunning,
                Code::ImageIncomplete,
                Code::Cancelled,
                Code::Invalid,
                Code::NotAnImage,
                Code::KeyReused,
                Code::ShuttingDown,
                Code::NoMemory,
            ],
            ..entry(
                "/v1/vms/{name}/actions",
                "POST",
                "act_on_vm",
                "Starts, stops or resets a VM, or makes an SError pending in it",
                [(200, Json(vm)), (202, Json(operation.clone()))].into(),
            )
        },
        Entry {
            parameters: &[UNTIL],
            refusals: &[
                Code::VmNotFound,
                Code::UpgradeRequired,
                Code::TooManyStreams,
            ],
            ..entry(
                "/v1/vms/{name}/console",
                "GET",
                "console",
                "The console both ways, after an upgrade to skete-console or websocket",
                [(101, None)].into(),
            )
        },
        Entry {
            parameters: &[
                ("?follow", "true: go on until the VM is deleted"),
                UNTIL,
                ("?from", "First byte wanted, counted from the VM's first"),
            ],
            refusals: &[Code::BadQuery, Code::VmNotFound, Code::TooManyStreams],
            ..entry(
                "/v1/vms/{name}/console/log",
                "GET",
                "console_log",
                "The last 64 KiB of console output",
                [(200, Bytes(text))].into(),
            )
        },
        Entry {
            takes: Bytes("application/octet-stream"),
            refusals: &[Code::VmNotFound, Code::VmNotRunning],
            ..entry(
                "/v1/vms/{name}/console/input",
                "POST",
                "console_input",
                "Types at the console",
                [(204, None)].into(),
            )
        },
        Entry {
            parameters: &[
                ("Last-Event-ID", "Begin after this event"),
                ("?since", "The same"),
                ("?follow", "false: end after the last event there is"),
            ],
            refusals: &[Code::BadQuery, Code::TooManyStreams],
            ..entry(
                "/v1/events",
                "GET",
                "events",
                "Events as they happen; each data line is an Event",
                [(200, Bytes("text/event-stream"))].into(),
            )
        },
        entry(
            "/v1/operations",
            "GET",
            "list_operations",
            "The last 256 operations",
            [(200, operations)].into(),
        ),
        Entry {
            parameters: &[("?wait", "30s: answer when it has ended, or after so long")],
            refusals: &[Code::BadQuery, Code::OperationNotFound],
            ..entry(
                "/v1/operations/{id}",
                "GET",
                "get_operation",
                "An operation",
                [(200, Json(operation))].into(),
            )
        },
        Entry {
            parameters: &[KEY],
            takes: Json(power.clone()),
            refusals: &[Code::BadJson, Code::Invalid, Code::KeyReused],
            ..entry(
                "/v1/system/actions",
                "POST",
                "act_on_system",
                "Stops every VM, then switches the machine off or restarts it",
                [(202, Json(power))].into(),
            )
        },
    ]
}
