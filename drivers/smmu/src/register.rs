//! Registers that are used, by offset (IHI 0070, 6.3), and their bits.

/// Features, 32 bits.
pub const IDR0: u64 = 0x000;
/// Sizes, 32 bits.
pub const IDR1: u64 = 0x004;
/// Addresses, 32 bits.
pub const IDR5: u64 = 0x014;
/// What is on, 32 bits.
pub const CR0: u64 = 0x020;
/// What is on by now, 32 bits.
pub const CR0ACK: u64 = 0x024;
/// Attributes of the SMMU's own accesses, 32 bits.
pub const CR1: u64 = 0x028;
/// What becomes of transactions while it is off, 32 bits.
pub const GBPA: u64 = 0x044;
/// Which interrupts are on, 32 bits.
pub const IRQ_CTRL: u64 = 0x050;
/// Which are on by now, 32 bits.
pub const IRQ_CTRLACK: u64 = 0x054;
/// The stream table, 64 bits.
pub const STRTAB_BASE: u64 = 0x080;
/// Its format and size, 32 bits.
pub const STRTAB_BASE_CFG: u64 = 0x088;
/// The command queue, 64 bits.
pub const CMDQ_BASE: u64 = 0x090;
/// How far commands are written, 32 bits.
pub const CMDQ_PROD: u64 = 0x098;
/// How far they are done, and why no further, 32 bits.
pub const CMDQ_CONS: u64 = 0x09c;
/// The event queue, 64 bits.
pub const EVENTQ_BASE: u64 = 0x0a0;
/// How far events are written, 32 bits; in the second page.
pub const EVENTQ_PROD: u64 = 0x1_00a8;
/// How far they are read, 32 bits; in the second page.
pub const EVENTQ_CONS: u64 = 0x1_00ac;

/// CR0.SMMUEN.
pub const CR0_SMMUEN: u32 = 1 << 0;
/// CR0.EVENTQEN.
pub const CR0_EVENTQEN: u32 = 1 << 2;
/// CR0.CMDQEN.
pub const CR0_CMDQEN: u32 = 1 << 3;
/// IRQ_CTRL.EVENTQ_IRQEN: an interrupt when the event queue is no longer empty.
pub const IRQ_CTRL_EVENTQ: u32 = 1 << 2;
/// CR1: tables and queues inner shareable, write-back.
pub const CR1_COHERENT: u32 = 0b11 << 10 | 0b01 << 8 | 0b01 << 6 | 0b11 << 4 | 0b01 << 2 | 0b01;
/// GBPA.ABORT: what comes while the SMMU is off is aborted.
pub const GBPA_ABORT: u32 = 1 << 20;
/// GBPA.UPDATE: set to write the register, clear when that is done.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// Read- and write-allocate hint of the three base registers.
pub const BASE_ALLOCATE: u64 = 1 << 62;
/// CMDQ_CONS.ERR, bits 30:24: why the SMMU stopped at a command.
pub const CMDQ_CONS_ERROR: u32 = 0x7f << 24;
