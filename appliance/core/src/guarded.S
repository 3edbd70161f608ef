// Loads and stores that a device may answer with an external abort. What aborts between these
// labels goes on at guarded_failed (vectors.S). Nothing here touches the stack.

.section .text.guarded, "ax"
.global guarded_begin
.global guarded_load
.global guarded_store
.global guarded_failed
.global guarded_end
guarded_begin:

// x0: where, x1: bytes. Returns the value in x0, and 0 in x1.
guarded_load:
    cmp     x1, #2
    b.lo    1f
    b.eq    2f
    cmp     x1, #4
    b.eq    4f
    ldr     x0, [x0]
    b       9f
4:  ldr     w0, [x0]
    b       9f
2:  ldrh    w0, [x0]
    b       9f
1:  ldrb    w0, [x0]
9:  dsb     sy
    mov     x1, #0
    ret

// x0: where, x1: bytes, x2: the value. Returns 0 in x1.
guarded_store:
    cmp     x1, #2
    b.lo    1f
    b.eq    2f
    cmp     x1, #4
    b.eq    4f
    str     x2, [x0]
    b       9f
4:  str     w2, [x0]
    b       9f
2:  strh    w2, [x0]
    b       9f
1:  strb    w2, [x0]
9:  dsb     sy
    mov     x1, #0
    ret

guarded_end:
// It returns to who called: x30 is as it was.
guarded_failed:
    mov     x0, #-1
    mov     x1, #1
    ret
