//! From core's first instruction in root to Hermit's `_start`.
//!
//! 1. `_boot`, in assembly: MMU and caches on with two constant tables that map root's RAM
//!    one to one, so that nothing is ever written around the caches; stack; zeroed data.
//! 2. [`enter`]: keeps the [`RootBoot`] page, builds the tables Hermit works with, changes
//!    to them, and jumps.
//!
//! Hermit wants (DESIGN 5): 48-bit VA in TTBR0, 4 KiB granule, L0\[511\] pointing to L0
//! itself, its image in 4 KiB pages at VA = IPA, a PL011 at VA 0x1000. Beside that lies
//! all of physical memory at [`PHYSMAP`], which Hermit does not know of.

#![expect(unsafe_code, reason = "the entry stub: assembly, statics, page tables")]

use core::arch::{asm, global_asm};
use core::num::NonZeroU64;

use guest_abi::root_boot::{PHYSMAP, ROOT_BOOT_MAGIC, ROOT_IMAGE_IPA, ROOT_RAM_IPA, RootBoot};
use hermit_entry::boot_info::{
    BootInfo, HardwareInfo, LoadInfo, PlatformInfo, RawBootInfo, SerialPortBase,
};

use crate::cell::BootCell;

/// Bytes of the stack that Hermit boots and idles on (its KERNEL_STACK_SIZE).
const STACK_BYTES: usize = 0x8000;
/// Where Hermit writes its console.
const UART_VA: u64 = 0x1000;
/// IPA of the PL011 (guest-abi `map`).
const UART_IPA: u64 = guest_abi::map::UART_BASE;
const PAGE: u64 = 4096;
/// Bytes that one level-3 table maps.
const L3_SPAN: u64 = 2 << 20;
/// Level-3 tables for the image: 16 MiB at most.
const IMAGE_TABLES: usize = 8;
/// Bytes that one level-1 table maps.
const L1_SPAN: u64 = 512 << 30;
/// Level-1 tables for PHYSMAP: 4 TiB of physical addresses at most.
const PHYSMAP_TABLES: usize = 8;

// Stage-1 descriptor bits (DDI 0487, D8.3). MAIR index 0 is Device-nGnRnE, 4 Normal WB, as
// Hermit's own mappings assume.
const TABLE: u64 = 0b11;
const PAGE_ENTRY: u64 = 0b11;
const BLOCK: u64 = 0b01;
const DEVICE: u64 = 0 << 2;
const NORMAL: u64 = 4 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const EXECUTE_NEVER: u64 = 0b11 << 53;
/// Software bit by which Hermit marks the entry that points to its own table.
const SELF: u64 = 1 << 55;

/// MAIR_EL1: 0 nGnRnE, 1 nGnRE, 2 GRE, 3 Normal NC, 4 Normal WB.
const MAIR: u64 = 0x00_0000_00ff_440c_0400;
/// TCR_EL1 without IPS: T0SZ 16, walks WB inner-shareable, 4 KiB granules, TTBR1 off.
const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 0b11 << 12 | 16 << 16 | 1 << 23 | 0b10 << 30;
/// SCTLR_EL1: M, C, I and the RES1 bits of Armv8.0; DZE, UCT, nTWI, nTWE.
const SCTLR: u64 = 0x30d0_0800 | 1 << 0 | 1 << 2 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18;

#[repr(C, align(4096))]
struct Table([u64; 512]);

impl Table {
    const EMPTY: Self = Self([0; 512]);
}

#[repr(C, align(4096))]
struct Stack([u8; STACK_BYTES]);

static L0: BootCell<Table> = BootCell::new(Table::EMPTY);
static L1: BootCell<Table> = BootCell::new(Table::EMPTY);
static L2_LOW: BootCell<Table> = BootCell::new(Table::EMPTY);
static L3_LOW: BootCell<Table> = BootCell::new(Table::EMPTY);
static L2_RAM: BootCell<Table> = BootCell::new(Table::EMPTY);
static L3_IMAGE: BootCell<[Table; IMAGE_TABLES]> =
    BootCell::new([const { Table::EMPTY }; IMAGE_TABLES]);
static L1_PHYSMAP: BootCell<[Table; PHYSMAP_TABLES]> =
    BootCell::new([const { Table::EMPTY }; PHYSMAP_TABLES]);
static BOOT_STACK: BootCell<Stack> = BootCell::new(Stack([0; STACK_BYTES]));
static BOOT_INFO: BootCell<Option<RawBootInfo>> = BootCell::new(None);
static ROOT_BOOT: BootCell<RootBoot> = BootCell::new(EMPTY_ROOT_BOOT);

const EMPTY_ROOT_BOOT: RootBoot = {
    use guest_abi::root_boot::{BOOTARGS_MAX, ROOT_DEVICES_MAX, RootDevice};
    const NONE: RootDevice = RootDevice {
        kind: 0,
        intid: 0,
        pa: 0,
        bytes: 0,
        edge: 0,
        reserved: 0,
    };
    RootBoot {
        magic: 0,
        generation: 0,
        ram_bytes: 0,
        image_end_ipa: 0,
        physmap_ipa: 0,
        physmap_bytes: 0,
        doorbell_pa: 0,
        machine_ram_bytes: 0,
        midr: 0,
        reset_ticks: 0,
        cores: 0,
        counter_hz: 0,
        device_count: 0,
        bootargs_len: 0,
        devices: [NONE; ROOT_DEVICES_MAX],
        bootargs: [0; BOOTARGS_MAX],
        rng_seed: [0; 64],
        rng_seed_len: 0,
        end: 0,
        unready: 0,
    }
};

/// The device tree that Hermit reads; `build.rs` makes it.
#[repr(C, align(8))]
struct Tree<T: ?Sized>(T);
static TREE: &Tree<[u8]> = &Tree(*include_bytes!(concat!(env!("OUT_DIR"), "/root.dtb")));

global_asm!(
    r#"
.section .text.boot, "ax"
.global _boot
_boot:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0

    // IPS: what the core has, at most 48 bits.
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x1, x2, lo
    ldr     x2, ={tcr}
    orr     x1, x2, x1, lsl #32
    ldr     x2, ={mair}
    adrp    x3, boot_l0
    ldr     x4, ={sctlr}
    msr     mair_el1, x2
    msr     tcr_el1, x1
    msr     ttbr0_el1, x3
    msr     ttbr1_el1, xzr
    mov     x1, #(3 << 20)
    msr     cpacr_el1, x1
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     sctlr_el1, x4
    isb

    adrp    x1, {stack}
    add     x1, x1, #:lo12:{stack}
    add     sp, x1, #{stack_bytes}
    adrp    x1, __bss_start
    adrp    x2, __bss_end
1:  cmp     x1, x2
    b.hs    2f
    stp     xzr, xzr, [x1], #16
    stp     xzr, xzr, [x1], #16
    stp     xzr, xzr, [x1], #16
    stp     xzr, xzr, [x1], #16
    b       1b
2:  mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    b       {enter}
.ltorg

.section .rodata.boot_tables, "a"
.balign 4096
boot_l0:
    .quad   boot_l1 + {table}
    .fill   511, 8, 0
boot_l1:
    .quad   0
    .quad   {ram} + {block}
    .fill   510, 8, 0
"#,
    tcr = const TCR,
    mair = const MAIR,
    sctlr = const SCTLR,
    stack = sym BOOT_STACK,
    stack_bytes = const STACK_BYTES,
    enter = sym enter,
    table = const TABLE,
    ram = const ROOT_RAM_IPA,
    block = const BLOCK | NORMAL | INNER_SHAREABLE | ACCESSED,
);

unsafe extern "C" {
    static __rodata_start: u8;
    static __data_start: u8;
    static __image_end: u8;
    fn _start(boot_info: &'static RawBootInfo, cpu: u32) -> !;
}

/// Returns what core said when it entered root.
pub(crate) fn root_boot() -> &'static RootBoot {
    // SAFETY: written once, in `enter`, before anything else runs.
    unsafe { &*ROOT_BOOT.get() }
}

/// Returns the machine's boot arguments, without what is not UTF-8.
pub(crate) fn bootargs() -> &'static str {
    let boot = root_boot();
    let bytes = usize::try_from(boot.bootargs_len).unwrap_or(0);
    let line = boot.bootargs.get(..bytes).unwrap_or_default();
    core::str::from_utf8(line).unwrap_or_default()
}

/// Runs once, with interrupts masked, on the boot stack.
extern "C" fn enter(root_boot: *const RootBoot) -> ! {
    // SAFETY: core passes the IPA of a RootBoot in root's RAM (guest-abi), which the boot
    // tables map one to one; nothing else runs that could use ROOT_BOOT.
    unsafe { ROOT_BOOT.get().copy_from_nonoverlapping(root_boot, 1) };
    let boot = self::root_boot();
    assert!(boot.magic == ROOT_BOOT_MAGIC, "not entered by core");
    build_tables(boot);

    let info = BootInfo {
        hardware_info: HardwareInfo {
            phys_addr_range: ROOT_RAM_IPA..ROOT_RAM_IPA.saturating_add(boot.ram_bytes),
            serial_port_base: SerialPortBase::new(UART_VA),
            device_tree: NonZeroU64::new((&raw const *TREE).addr() as u64),
        },
        load_info: LoadInfo {
            kernel_image_addr_range: ROOT_IMAGE_IPA..(&raw const __image_end).addr() as u64,
            tls_info: None,
        },
        platform_info: PlatformInfo::LinuxBoot,
    };
    // SAFETY: nothing else runs yet; from here on BOOT_INFO is only read.
    let info: &'static RawBootInfo = unsafe { (*BOOT_INFO.get()).insert(RawBootInfo::from(info)) };
    change_tables();
    let stack = BOOT_STACK.get();
    // SAFETY: `_start` wants SP at the base of the stack, to which it adds the size itself.
    // This frame is not returned to, and what it holds (`info`) is static.
    unsafe {
        asm!(
            "mov sp, {stack}",
            "mov x1, xzr",
            "mov x29, xzr",
            "mov x30, xzr",
            "br {start}",
            stack = in(reg) stack,
            start = in(reg) _start as *const (),
            in("x0") info,
            options(noreturn),
        )
    }
}

/// Fills the tables that Hermit continues with.
fn build_tables(boot: &RootBoot) {
    let page = |ipa: u64, attributes: u64| ipa | PAGE_ENTRY | ACCESSED | attributes;
    // A table is also read as a page, through the entry in which L0 points to itself: hence
    // the attributes, which are ignored in a table descriptor.
    let next =
        |table: *mut Table| table.addr() as u64 | TABLE | NORMAL | INNER_SHAREABLE | ACCESSED;

    set(L0.get(), 0, next(L1.get()));
    set(L0.get(), 511, next(L0.get()) | SELF);
    set(L1.get(), 0, next(L2_LOW.get()));
    set(L2_LOW.get(), 0, next(L3_LOW.get()));
    set(
        L3_LOW.get(),
        index(UART_VA, 12),
        page(UART_IPA, DEVICE | EXECUTE_NEVER),
    );

    // The image: text read-only, the rest never executed, constants read-only.
    set(L1.get(), index(ROOT_IMAGE_IPA, 30), next(L2_RAM.get()));
    let end = (&raw const __image_end).addr() as u64;
    let rodata = (&raw const __rodata_start).addr() as u64;
    let data = (&raw const __data_start).addr() as u64;
    let tables = L3_IMAGE.get().cast::<Table>();
    let mut at = ROOT_IMAGE_IPA;
    while at < end {
        let number = (at.wrapping_sub(ROOT_IMAGE_IPA) / L3_SPAN) as usize;
        assert!(
            number < IMAGE_TABLES,
            "root's image is too large for its tables"
        );
        let table = tables.wrapping_add(number);
        set(L2_RAM.get(), index(at, 21), next(table));
        let rights = match at {
            _ if at < rodata => READ_ONLY,
            _ if at < data => READ_ONLY | EXECUTE_NEVER,
            _ => EXECUTE_NEVER,
        };
        set(
            table,
            index(at, 12),
            page(at, NORMAL | INNER_SHAREABLE | rights),
        );
        at = at.wrapping_add(PAGE);
    }

    // All of physical memory. Stage 2 decides what is there, and of which type.
    let tables = L1_PHYSMAP.get().cast::<Table>();
    let blocks = boot.physmap_bytes.div_ceil(1 << 30);
    let most = (PHYSMAP_TABLES as u64).wrapping_mul(L1_SPAN >> 30);
    for block in 0..blocks.min(most) {
        let pa = block << 30;
        let table = tables.wrapping_add((pa / L1_SPAN) as usize);
        set(L0.get(), index(PHYSMAP.wrapping_add(pa), 39), next(table));
        let out = boot.physmap_ipa.wrapping_add(pa);
        let bits = BLOCK | NORMAL | INNER_SHAREABLE | ACCESSED | EXECUTE_NEVER;
        set(table, index(pa, 30), out | bits);
    }
}

/// Returns the entry of a table that covers `va`, at the level whose entries span `1 << lsb`.
fn index(va: u64, lsb: u32) -> usize {
    (va >> lsb & 511) as usize
}

fn set(table: *mut Table, index: usize, entry: u64) {
    let at = table.cast::<u64>().wrapping_add(index & 511);
    // SAFETY: `table` is one of the static tables above, `index` is below 512, and neither
    // the MMU nor anyone else uses these tables yet.
    unsafe { at.write_volatile(entry) }
}

/// Has the MMU walk the tables just built.
fn change_tables() {
    // SAFETY: code, stack and data of this very moment are mapped one to one by the old
    // tables and by the new, with the same memory type. Nothing global is cached beyond the
    // TLBI.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {l0}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            l0 = in(reg) L0.get(),
            options(nostack, preserves_flags),
        )
    }
}
