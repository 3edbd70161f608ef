//! Models of the PL011 UART and PL031 clock that guests see.
#![no_std]
