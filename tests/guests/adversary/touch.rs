//! Touches memory that it does not have, everywhere: loads, stores and fetches, `n=` rounds
//! or for ever. Prints how often it was told off, and that it lives.
#![no_std]
#![no_main]

use guest_abi::map::RAM_BASE;
use payload::stats::splitmix64;
use payload::{catch, machine, mem, println, psci};

payload::guest!(main);

fn main() -> ! {
    println!("ADVERSARY touch");
    let outside = RAM_BASE + machine::ram_bytes();
    let mut state = 1;
    let (mut round, mut faults) = (0, 0);
    while !machine::enough(round) {
        // Near the end of RAM, then at every power of two, then anywhere in 48 bits.
        let random = splitmix64(&mut state) & 0xffff_ffff_ffff;
        let far = 1 << (33 + random % 15);
        for at in [outside + round * 4096 % (1 << 30), far, far + 4096, random] {
            // Below the end of RAM are devices and RAM; those are not the point.
            let at = if at < outside { outside + at } else { at };
            faults += u64::from(catch(|| mem::read64(at & !7)).is_err());
            faults += u64::from(catch(|| mem::write8(at, 1)).is_err());
            faults += u64::from(catch(|| mem::call_nowhere(at & !3)).is_err());
        }
        round += 1;
        if round.is_power_of_two() {
            println!("rounds {round} faults {faults}");
        }
    }
    println!("DONE");
    psci::system_off()
}
