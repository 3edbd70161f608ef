//! What the server bounds. Clients may rely on these numbers; the server's tests pin them.

/// Fewest vCPUs of a VM.
pub const CPUS_MIN: u32 = 1;
/// Most vCPUs of a VM.
pub const CPUS_MAX: u32 = 8;
/// Guest RAM comes in multiples of this many bytes.
pub const MEMORY_STEP_BYTES: u64 = 2 << 20;
/// Least guest RAM, in bytes.
pub const MEMORY_MIN_BYTES: u64 = 16 << 20;
/// Most bytes of a kernel command line.
pub const CMDLINE_MAX: usize = 2048;
/// VMs that can be defined.
pub const VMS_MAX: usize = 64;
/// Devices that a VM can have.
pub const DEVICES_MAX: usize = 16;
/// Images that can be defined.
pub const IMAGES_MAX: usize = 64;
/// Operations that are remembered.
pub const OPERATIONS_MAX: usize = 256;
/// Events that are remembered.
pub const EVENTS_MAX: usize = 256;
/// Console output remembered for each VM, in bytes.
pub const SCROLLBACK_BYTES: usize = 64 << 10;
/// Most bytes of a JSON body.
pub const JSON_MAX: usize = 1 << 20;
/// Connections served at a time.
pub const CONNECTIONS_MAX: usize = 32;
/// Connections that may be endless streams (console, followed log, events) at a time.
pub const STREAMS_MAX: usize = 24;
/// Most bytes of a request's head.
pub const HEAD_MAX: usize = 8 << 10;
/// Most bytes of a request's first line.
pub const REQUEST_LINE_MAX: usize = 4 << 10;
/// Most header fields of a request.
pub const HEADERS_MAX: usize = 64;
/// Console protocol: the token for the `Upgrade` field. After `101 Switching Protocols`
/// both directions carry the console's bytes and nothing else.
pub const CONSOLE_PROTOCOL: &str = "skete-console";
/// TCP port on which the appliance listens until TLS comes.
pub const DEFAULT_PORT: u16 = 8080;
/// Most pages whose storage keys or states one request reads or writes.
pub const MEMORY_VALUES_MAX: usize = 4096;
/// Most bytes of guest memory that one scan with a bitmap covers.
pub const MEMORY_BITMAP_BYTES_MAX: u64 = 4 << 30;
/// Least weight of a VM.
pub const WEIGHT_MIN: u32 = 1;
/// Most weight of a VM.
pub const WEIGHT_MAX: u32 = 10_000;
/// Weight of a VM that asks for none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Largest limit of a VM's vCPUs, in per cent of one core.
pub const CPU_LIMIT_PERCENT_MAX: u32 = 10_000;
