// Guest SVE registers. The length of a vector is ZCR_EL2's, whatever the guest chose.
.arch_extension sve

.section .text.sve, "ax"
// x0 = Z0 to Z31, x1 = P0 to P15 and FFR, x2 = FpRegs (for FPCR and FPSR)
.global sve_save
sve_save:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     z\n, [x0, #\n, mul vl]
    .endr
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    str     p\n, [x1, #\n, mul vl]
    .endr
    rdffr   p0.b
    str     p0, [x1, #16, mul vl]
    mrs     x3, fpcr
    mrs     x4, fpsr
    str     x3, [x2, #512]
    str     x4, [x2, #520]
    ret

.global sve_load
sve_load:
    ldr     p0, [x1, #16, mul vl]
    wrffr   p0.b
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    ldr     p\n, [x1, #\n, mul vl]
    .endr
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     z\n, [x0, #\n, mul vl]
    .endr
    ldr     x3, [x2, #512]
    ldr     x4, [x2, #520]
    msr     fpcr, x3
    msr     fpsr, x4
    ret

// Returns the length of a vector in bytes.
.global sve_bytes
sve_bytes:
    rdvl    x0, #1
    ret
