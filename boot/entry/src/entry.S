// The arm64 Image header (Linux booting.rst) and the way from it into core.
//
// Entered by the firmware at EL2 with MMU off, x0 = device tree, anywhere that is 2 MiB
// aligned. core is linked at CORE_BASE and reached through tables made here: a 2 MiB
// identity block for the jump itself, and CORE_BASE onwards to where the image lies.
// Rust then builds the final tables and leaves these.

.equ L0_SHIFT, 39
.equ NORMAL_BLOCK, 0x701          // AF, inner shareable, MAIR index 0, block
.equ TABLE, 0x3

.macro adr_l reg, symbol
    adrp \reg, \symbol
    add  \reg, \reg, :lo12:\symbol
.endm

.section .text.header, "ax"
.global _start
_start:
    b       primary               // code0
    .long   0                     // code1
    .quad   0                     // text_offset
    .quad   0                     // image_size: filled in by mkimage
    .quad   0xa                   // flags: little-endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

.section .text.entry, "ax"
primary:
    msr     daifset, #0xf
    mrs     x1, cntpct_el0
    mov     x22, x1               // ticks at reset
    mov     x21, x0               // device tree
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    wrong_level

    adr_l   x20, _start           // where the image lies
    adr_l   x1, early_l0
    adr_l   x2, early_identity_l1
    adr_l   x3, early_identity_l2
    // identity: the 2 MiB block that holds this code
    lsr     x4, x20, #39
    orr     x5, x2, #TABLE
    str     x5, [x1, x4, lsl #3]
    ubfx    x4, x20, #30, #9
    orr     x5, x3, #TABLE
    str     x5, [x2, x4, lsl #3]
    ubfx    x4, x20, #21, #9
    mov     x6, #NORMAL_BLOCK
    and     x5, x20, #~0x1fffff
    orr     x5, x5, x6
    str     x5, [x3, x4, lsl #3]
    // CORE_BASE: 2 MiB blocks over the whole image
    adr_l   x2, early_core_l1
    adr_l   x3, early_core_l2
    orr     x5, x2, #TABLE
    str     x5, [x1, #(192 * 8)]
    orr     x5, x3, #TABLE
    str     x5, [x2]
    adr_l   x7, __image_end
    and     x5, x20, #~0x1fffff
0:  orr     x8, x5, x6
    str     x8, [x3], #8
    add     x5, x5, #0x200000
    cmp     x5, x7
    b.lo    0b
    dsb     sy

    adr_l   x0, early_l0
    bl      mmu_on
    ldr     x8, =high_primary
    br      x8

// Turns stage 1 of EL2 on with the tables at x0. Clobbers x1 and x2.
mmu_on:
    // Non-VHE, lower levels AArch64: a known HCR before anything depends on it.
    mov     x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    ldr     x1, =0x04ff           // MAIR: 0 = Normal WB, 1 = Device-nGnRE
    msr     mair_el2, x1
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    cmp     x1, #5
    mov     x2, #5
    csel    x1, x1, x2, lo
    ldr     x2, =0x80803510       // RES1, inner shareable, WB walks, 48-bit, 4 KiB
    orr     x1, x2, x1, lsl #16   // PS
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    tlbi    alle2
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    ldr     x1, =0x30c5183d       // RES1, I, SA, C, M
    msr     sctlr_el2, x1
    isb
    ret

high_primary:
    adr_l   x1, __boot_stack_top
    mov     sp, x1
    mov     x0, x21
    mov     x1, x20
    mov     x2, x22
    bl      core_main
    b       .

// Entered by PSCI CPU_ON: x0 = index of the core.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    mov     x19, x0
    adr_l   x1, final_ttbr
    ldr     x0, [x1]
    bl      mmu_on
    ldr     x8, =high_secondary
    br      x8
high_secondary:
    adr_l   x1, __boot_stack_top
    // a stack of its own below the boot core's, CPU_STACK_BYTES apart
    mov     x2, #0x10000
    mul     x2, x2, x19
    sub     sp, x1, x2
    mov     x0, x19
    bl      core_secondary
    b       .

// Not EL2: there is no console to say so on, so say it to a debugger.
.global wrong_level
wrong_level:
    wfe
    b       wrong_level

.section .bss.early, "aw", @nobits
.balign 4096
early_l0:           .space 4096
early_identity_l1:  .space 4096
early_identity_l2:  .space 4096
early_core_l1:      .space 4096
early_core_l2:      .space 4096

.section .data.final_ttbr, "aw"
.balign 8
.global final_ttbr
final_ttbr:         .quad 0
