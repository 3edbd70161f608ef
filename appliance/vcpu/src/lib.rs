//! Exits, trapped registers, PSCI: what a vCPU is, without the machine.
#![no_std]
