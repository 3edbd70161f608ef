// Exception vectors of EL2, and the only way into a guest.
//
// On an exit the guest's x0-x30, PC and PSTATE go to the current Vcpu, whose first bytes
// they are (vcpu.rs asserts the offsets). `exit_*` return the Vcpu to enter, which need
// not be the one that left. SP_EL2 is the core's own stack, empty while a guest runs.

.equ CURRENT, 0                   // offset of PerCpu::current

.macro lower kind
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #CURRENT]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    stp     x30, x4, [x0, #240]
    str     x5, [x0, #256]
    b       leave_\kind
.endm

.macro own kind, then=own_fatal
    .balign 128
    // Nothing may fault at EL2: report and reset. The stack may be the culprit.
    mrs     x0, elr_el2
    mrs     x1, esr_el2
    mrs     x2, far_el2
    mov     x3, #\kind
    mov     x4, sp
    mrs     x5, spsr_el2
    mov     x6, x30
    b       \then
.endm

.section .text.vectors, "ax"
.balign 2048
.global el2_vectors
el2_vectors:
    own 0
    own 1
    own 2
    own 3
    own 4, own_sync
    own 5
    own 6
    own 7
    lower sync
    lower irq
    lower fiq
    lower serror
    // AArch32 guests do not exist: HCR_EL2.RW is set and EL0 AArch32 is hidden.
    lower aarch32
    lower aarch32
    lower aarch32
    lower aarch32

// Is it a device that did not answer? In the guarded functions the stack is as good as ever.
own_sync:
    adrp    x7, guarded_begin
    add     x7, x7, :lo12:guarded_begin
    cmp     x0, x7
    b.lo    own_fatal
    adrp    x7, guarded_end
    add     x7, x7, :lo12:guarded_end
    cmp     x0, x7
    b.hs    own_fatal
    stp     x0, x1, [sp, #-64]!
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x30, [sp, #48]
    mov     x0, x1
    bl      guarded_exception
    mov     x8, x0
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x30, [sp, #48]
    ldp     x0, x1, [sp], #64
    cbz     x8, own_fatal
    adrp    x7, guarded_failed
    add     x7, x7, :lo12:guarded_failed
    msr     elr_el2, x7
    eret
    dsb     nsh
    isb

own_fatal:
    // A stack of its own for the last words: the overflowed one may be the reason.
    adrp    x7, fatal_stack_top
    add     x7, x7, :lo12:fatal_stack_top
    mov     sp, x7
    bl      fatal_exception
    b       .

.macro leave kind
leave_\kind:
    bl      exit_\kind
    b       enter_guest
.endm

leave irq
leave fiq
leave serror
leave aarch32

leave_sync:
    bl      exit_sync
    // fall through: the shortest way back is for the commonest exit

// x0 = the Vcpu to run.
.global enter_guest
enter_guest:
    ldp     x30, x2, [x0, #240]
    ldr     x3, [x0, #256]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x28, x29, [x0, #224]
    ldp     x26, x27, [x0, #208]
    ldp     x24, x25, [x0, #192]
    ldp     x22, x23, [x0, #176]
    ldp     x20, x21, [x0, #160]
    ldp     x18, x19, [x0, #144]
    ldp     x16, x17, [x0, #128]
    ldp     x14, x15, [x0, #112]
    ldp     x12, x13, [x0, #96]
    ldp     x10, x11, [x0, #80]
    ldp     x8, x9, [x0, #64]
    ldp     x6, x7, [x0, #48]
    ldp     x4, x5, [x0, #32]
    ldp     x2, x3, [x0, #16]
    ldp     x0, x1, [x0]
    eret
    // XSA-312: nothing may be speculated past the return.
    dsb     nsh
    isb

.section .bss.fatal_stack, "aw", @nobits
.balign 16
    .space  8192
fatal_stack_top:
