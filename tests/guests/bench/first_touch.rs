//! The first store into RAM that no one used: into each of some 2 MiB blocks
//! (`first_touch_2m`, each), and then into every page of one block (`first_touch_4k`, each).

use crate::measure;
use payload::{machine, mem, println, stats, timer};

const BLOCKS: usize = 8;
const PAGES: u64 = 512;

pub(crate) fn run() {
    let mut samples = [0; BLOCKS];
    let mut blocks = machine::fresh_blocks().skip(4).step_by(3);
    for sample in &mut samples {
        let Some(block) = blocks.next() else {
            println!("# first_touch: too little RAM");
            return;
        };
        let start = timer::now();
        mem::write64(block + 0x10_0000, 1);
        *sample = timer::now() - start;
    }
    measure::report_median("first_touch_2m", &mut samples);
    let Some(block) = blocks.next() else {
        println!("# first_touch_4k: too little RAM");
        return;
    };
    let start = timer::now();
    for page in 0..PAGES {
        mem::write64(block + page * 4096, 1);
    }
    let ticks = timer::now() - start;
    measure::report(
        "first_touch_4k",
        stats::insns_per_op(ticks, timer::hz(), PAGES),
    );
}
