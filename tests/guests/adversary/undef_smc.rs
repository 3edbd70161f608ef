//! Makes secure calls that do not exist, of every owner, `n=` rounds or for ever.
#![no_std]
#![no_main]

use payload::psci::{Conduit, NOT_SUPPORTED};
use payload::stats::splitmix64;
use payload::{catch, machine, println, psci};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY undef_smc");
    let mut state = 1;
    let (mut round, mut refused, mut undefined) = (0, 0, 0);
    while !machine::enough(round) {
        let mut registers = [0; 18];
        registers.fill_with(|| splitmix64(&mut state));
        // Any but PSCI and the like, whose owner is 4.
        if registers[0] >> 24 & 0x3f == 4 {
            registers[0] ^= 1 << 29;
        }
        match catch(|| psci::call(Conduit::Smc, registers)) {
            Ok(got) => refused += u64::from(got[0].cast_signed() == NOT_SUPPORTED),
            Err(_) => undefined += 1,
        }
        round += 1;
        if round.is_power_of_two() {
            println!("rounds {round} refused {refused} undefined {undefined}");
        }
    }
    println!("DONE");
    psci::system_off()
}
