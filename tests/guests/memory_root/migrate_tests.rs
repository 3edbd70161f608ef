//! A VM's memory, keys and page states go to another VM while its guest runs: what a live
//! migration does, by core calls alone.

use crate::orders::{CALL, CHECK, EACH, LOAD, READ, WRITE};
use crate::vm::Vm;
use crate::{PAGE, area};
use guest_abi::core_call::{CoreCall, Status};
use guest_abi::map::RAM_BASE;
use guest_abi::memory_call::{Scan, StatesOp, reclaim};
use guest_abi::page_state::{PAGE_STATE, StateCall};
use guest_abi::storage_key::{KEY_BULK, KEY_SET};
use payload::root::{Block, call, try_call};
use payload::{TestResult, expect, expect_eq, fail, println};

const RAM: u64 = 96 << 20;
const PAGES: u64 = RAM >> 12;
/// Usage of an unused page, in a byte of [`StatesOp`].
const UNUSED: u8 = 1;

/// Both ends, and what goes between them.
struct Move {
    from: Vm,
    to: Vm,
    /// A bit for each page that must be sent.
    log: Block,
    page: Block,
    bytes: Block,
    sent: u64,
    skipped: u64,
}

impl Move {
    fn new(from: Vm, to: Vm) -> Self {
        let log = Block::new(0);
        log.clear();
        Self {
            from,
            to,
            log,
            page: Block::new(0),
            bytes: Block::new(0),
            sent: 0,
            skipped: 0,
        }
    }

    fn mark(&self, n: u64) {
        self.log
            .set_word(n / 64, self.log.word(n / 64) | 1 << (n % 64));
    }

    /// States that changed go over, and with each its page.
    fn states(&self) {
        let mut at = RAM_BASE;
        while at != 0 {
            let take = [
                self.from.handle,
                StatesOp::Take as u64,
                at,
                256,
                self.bytes.pa,
            ];
            let [count, first, next] = call(CoreCall::VmPageStates, &take);
            let mut done = 0;
            while done < count {
                // The second half of the block is where the rest goes on from.
                for n in done..count {
                    self.bytes.set_byte(2048 + n - done, self.bytes.byte(n));
                }
                let (ipa, pa) = (first + done * PAGE, self.bytes.pa + 2048);
                let set = [self.to.handle, StatesOp::Set as u64, ipa, count - done, pa];
                done += call(CoreCall::VmPageStates, &set)[0];
            }
            for n in 0..count {
                self.mark((first - RAM_BASE) / PAGE + n);
            }
            at = next;
        }
    }

    fn state(&self, vm: Vm, n: u64) -> u8 {
        let peek = [
            vm.handle,
            StatesOp::Peek as u64,
            RAM_BASE + n * PAGE,
            1,
            self.bytes.pa,
        ];
        call(CoreCall::VmPageStates, &peek);
        self.bytes.byte(0)
    }

    fn key(&self, vm: Vm, n: u64) -> u8 {
        let read = [vm.handle, RAM_BASE + n * PAGE, 1, self.bytes.pa];
        call(CoreCall::VmKeysRead, &read);
        self.bytes.byte(0)
    }

    /// One pass over what was written since the last. Returns the pages that were.
    fn pass(&mut self) -> u64 {
        self.states();
        self.from.scan(Scan::Dirty, RAM_BASE, RAM, self.log.pa);
        let mut pages = 0;
        for word in 0..PAGES / 64 {
            let mut bits = self.log.word(word);
            self.log.set_word(word, 0);
            while bits != 0 {
                let n = word * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                pages += 1;
                self.send(n);
            }
        }
        pages
    }

    fn send(&mut self, n: u64) {
        if self.state(self.from, n) & 3 == UNUSED {
            self.skipped += 1;
        } else {
            let (ipa, pa) = (RAM_BASE + n * PAGE, self.page.pa);
            self.from.read(ipa, pa, PAGE, 0).expect("key 0 may read");
            self.to.write(ipa, pa, PAGE, 0).expect("key 0 may write");
            self.sent += 1;
        }
        // The key last: the write above was not the guest's.
        let key = self.key(self.from, n);
        self.bytes.set_byte(0, key);
        let write = [self.to.handle, RAM_BASE + n * PAGE, 1, self.bytes.pa];
        expect_done(call(CoreCall::VmKeysWrite, &write)[0]);
    }
}

fn expect_done(pages: u64) {
    assert!(pages == 1, "{pages} keys were written");
}

pub(crate) fn end_to_end() -> TestResult {
    let (from, to) = match (Vm::create(RAM), Vm::create(RAM)) {
        (Ok(from), Ok(to)) => (from, to),
        failed => fail!("VmCreate: {failed:?}"),
    };
    from.policy(12, 0);
    to.policy(12, 0);
    from.start();
    let state = |op: StateCall, at: u64, pages: u64| {
        from.order(EACH, [u64::from(PAGE_STATE), op as u64, at, pages])
    };
    let key =
        |at: u64, pages: u64, key: u64| from.order(CALL, [u64::from(KEY_BULK), at, pages, key]);
    // 16 MiB in use, 4 MiB of no use, 1 MiB that may go, and keys.
    from.order(WRITE, [area(32), 16 << 8, PAGE, 1]);
    from.order(WRITE, [area(48), 4 << 8, PAGE, 1]);
    expect_eq!(state(StateCall::Unused, area(48), 4 << 8), [4 << 8, 0]);
    from.order(WRITE, [area(52), 1 << 8, PAGE, 1]);
    expect_eq!(state(StateCall::Volatile, area(52), 1 << 8), [1 << 8, 0]);
    expect_eq!(state(StateCall::StableNodat, area(32), 64), [64, 0]);
    expect_eq!(key(area(32), 200, 0x50), [200, 0]);
    expect_eq!(key(area(33), 100, 0x78), [100, 0]);

    let mut migration = Move::new(from, to);
    let unread = |at| {
        let args = [from.handle, StatesOp::Unread as u64, at, 0, 0];
        let [_, _, next] = call(CoreCall::VmPageStates, &args);
        next
    };
    let mut at = unread(RAM_BASE);
    while at != 0 {
        at = unread(at);
    }
    migration.pass();
    // The guest works on 8 MiB, a quarter of which are zeroes at any time.
    let (pages, rounds, seed) = (8 << 8, 300, 0x3132);
    let order = from.begin(LOAD, [area(64), pages, rounds, seed]);
    let (mut passes, mut rewritten) = (0, 0);
    while from.poll(order).is_none() {
        rewritten += migration.pass();
        passes += 1;
        // Zeroes lose their frames meanwhile, and the log must know.
        from.reclaim_logged(reclaim::ZERO, RAM_BASE, RAM, migration.log.pa);
        expect!(passes < 10_000, "the guest does not come to an end");
    }
    expect_eq!(from.wait(order), [0, 0], "the guest saw only what it wrote");
    // A key that changes late goes over, although nothing was written.
    migration.pass();
    from.order(CALL, [u64::from(KEY_SET), area(40), 0x90, 0]);
    from.order(READ, [area(32), 1, PAGE, 0]);
    migration.pass();
    let sent = migration.sent;
    println!(
        "# {passes} passes while it ran, {rewritten} pages again; {sent} sent, {} not",
        migration.skipped
    );
    expect!(
        passes >= 2 && rewritten > 0,
        "{passes} passes, {rewritten} again"
    );
    expect_eq!(migration.key(to, 8 << 8 | 32 << 8), 0x90);
    expect!(migration.skipped >= 4 << 8, "{}", migration.skipped);
    same(&migration)?;
    // What was of no use is not there at all.
    let unused = 4 << 8;
    let resident = to.memory().resident_bytes;
    for n in 0..unused {
        let (_, [_, frames, _]) = try_call(
            CoreCall::VmMemoryScan,
            &[
                to.handle,
                Scan::HostDirty as u64,
                area(48) + n * PAGE,
                PAGE,
                0,
                0,
            ],
        );
        expect_eq!(frames, 0, "unused page {n} was sent");
    }
    from.end();
    // What arrived runs, and finds what it had.
    to.enter();
    expect_eq!(to.order(CHECK, [area(32), 16 << 8, PAGE, 1]), [0, 0]);
    expect_eq!(to.order(CHECK, [area(52), 1 << 8, PAGE, 1]), [0, 0]);
    expect!(resident < RAM - (4 << 20), "{resident:#x}");
    to.end();
    Ok(())
}

/// Compares bytes, keys and states of all RAM but what is unused.
fn same(migration: &Move) -> TestResult {
    let (from, to) = (migration.from, migration.to);
    let (here, there) = (Block::new(0), Block::new(0));
    let mailbox = crate::orders::MAILBOX / PAGE;
    for n in 0..PAGES {
        let (ipa, usage) = (RAM_BASE + n * PAGE, migration.state(from, n));
        expect_eq!(migration.state(to, n), usage, "state of page {n}");
        // The guest reads its own pages and its mailbox all the time.
        let (a, b) = (migration.key(from, n), migration.key(to, n));
        let mask = if n <= 32 << 8 { 0xf8 } else { 0xfe };
        expect_eq!(a & mask, b & mask, "key of page {n}");
        if usage & 3 == UNUSED || n == mailbox {
            continue;
        }
        for (vm, block) in [(from, &here), (to, &there)] {
            if vm.read(ipa, block.pa, PAGE, 0) != Ok(()) {
                fail!("page {n} cannot be read");
            }
        }
        for word in 0..512 {
            if here.word(word) != there.word(word) {
                fail!(
                    "page {n} word {word}: {:#x}, {:#x}",
                    here.word(word),
                    there.word(word)
                );
            }
        }
    }
    let key = [from.handle, RAM_BASE, 1, here.pa];
    expect_eq!(try_call(CoreCall::VmKeysRead, &key).0, Status::Ok);
    Ok(())
}
