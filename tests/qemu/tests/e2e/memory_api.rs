//! The memory of Linux guests, seen and changed through the control port while they run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use qemu::{Control, Cpu, Shell};
use serde_json::{Value, json};

use crate::common::{MIB, PATIENCE, appliance, linux};

on_both_cpus!(
    a_linux_guests_ram_lies_in_large_leaves,
    a_linux_guest_survives_having_its_memory_moved_split_scanned_and_dropped,
    a_guest_over_its_limit_is_stopped_and_only_it,
    keys_are_kept_while_the_guest_runs,
    what_one_guest_shares_another_sees_and_each_keeps_what_it_writes,
);

fn boot(control: &Control, vm: &str, cpus: u32, memory_bytes: u64) -> Shell {
    control
        .define(vm, cpus, memory_bytes, &linux())
        .expect("can be defined");
    control.start(vm).expect("starts");
    Shell::wait(control, vm, PATIENCE).expect("boots to a shell")
}

fn memory(control: &Control, vm: &str) -> Value {
    control
        .get(&format!("/v1/vms/{vm}/memory"))
        .expect("is running")
}

fn act(control: &Control, vm: &str, body: &Value) -> Value {
    let line = format!("POST /v1/vms/{vm}/memory/actions");
    control.json(&line, body).expect("can be done")
}

fn number(view: &Value, pointer: &str) -> u64 {
    let found = view.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{pointer} in {view}"))
}

fn a_linux_guests_ram_lies_in_large_leaves(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut shell = boot(&skete.control, "one", 2, 512 * MIB);
    shell.check(2, 512 * MIB).expect("uses its memory");
    let view = memory(&skete.control, "one");
    let large = number(&view, "/leaves/1") * 2 * MIB + number(&view, "/leaves/2") * 1024 * MIB;
    let resident = number(&view, "/resident_bytes");
    assert!(resident > 64 * MIB, "{view}");
    assert!(
        large * 100 >= resident * 95,
        "{large} of {resident}: {view}"
    );
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

/// Numbers that look random, the same every time.
struct Dice(u64);

impl Dice {
    /// Returns a number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

fn a_linux_guest_survives_having_its_memory_moved_split_scanned_and_dropped(cpu: Cpu) {
    const RAM: u64 = 192 * MIB;
    let skete = appliance(cpu);
    skete.push_linux();
    let mut shell = boot(&skete.control, "one", 2, RAM);
    let done = AtomicBool::new(false);
    let control = &skete.control;
    let wrong = thread::scope(|scope| {
        let guest = scope.spawn(|| {
            // Fresh pages, pages copied, pages freed and zeroed again, all of them compared.
            let wrong = shell.run(
                "dd if=/dev/urandom of=/tmp/f bs=1M count=4 2>/dev/null; a=$(sha256sum </tmp/f); \
                 n=0; for i in $(seq 8); do cp /tmp/f /tmp/g; cp /tmp/g /tmp/h; rm /tmp/g; \
                 b=$(sha256sum </tmp/h); rm /tmp/h; [ \"$a\" = \"$b\" ] || n=$((n+1)); done; \
                 [ \"$a\" = \"$(sha256sum </tmp/f)\" ] || n=$((n+100)); echo $n",
                PATIENCE,
            );
            done.store(true, Ordering::Relaxed);
            wrong
        });
        let mut dice = Dice(0x5ce7_e000_0001);
        let mut rounds = 0_u32;
        while !done.load(Ordering::Relaxed) {
            rounds += 1;
            let start = dice.roll(RAM >> 12) << 12;
            let bytes = (dice.roll(24 * MIB) & !0xfff) + 4096;
            let (start, bytes) = match dice.roll(4) {
                0 => (0, RAM),
                _ => (start, bytes.min(RAM - start)),
            };
            let mut request = match dice.roll(6) {
                0 => json!({ "action": "reclaim", "kinds": ["zero"] }),
                1 => json!({ "action": "move" }),
                2 => json!({ "action": "scan", "scan": "young" }),
                3 => json!({ "action": "scan", "scan": "dirty", "bitmap": true }),
                4 => json!({ "action": "scan", "scan": "host-dirty" }),
                _ => {
                    let leaf = [4096, 2 * MIB][usize::from(rounds.is_multiple_of(2))];
                    let body = json!({ "largest_leaf_bytes": leaf });
                    let line = "PATCH /v1/vms/one/memory";
                    control.json(line, &body).expect("can be set");
                    json!({ "action": "split" })
                }
            };
            request["start"] = json!((1 << 30) + start);
            request["bytes"] = json!(bytes);
            act(control, "one", &request);
            // The guest is to get on as well.
            thread::sleep(Duration::from_millis(20));
        }
        let wrong = guest.join().expect("the guest answers").expect("runs");
        (wrong, rounds)
    });
    let view = memory(control, "one");
    assert_eq!(wrong.0, "0", "after {} rounds: {view}", wrong.1);
    assert!(wrong.1 >= 20, "only {} rounds: {view}", wrong.1);
    assert!(number(&view, "/splits") > 0, "{view}");
    assert!(number(&view, "/reclaimed_bytes") > 0, "{view}");
    println!("{} rounds; {view}", wrong.1);
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

fn a_guest_over_its_limit_is_stopped_and_only_it(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut good = boot(&skete.control, "good", 1, 192 * MIB);
    let greedy = boot(&skete.control, "greedy", 1, 256 * MIB);
    let limit = number(&memory(&skete.control, "greedy"), "/resident_bytes") + 16 * MIB;
    let line = "PATCH /v1/vms/greedy/memory";
    let set = skete.control.json(line, &json!({ "limit_bytes": limit }));
    assert_eq!(
        number(&set.expect("can be set"), "/policy/limit_bytes"),
        limit
    );
    drop(greedy);
    skete
        .control
        .type_text("greedy", "dd if=/dev/zero of=/tmp/f bs=1M count=128\n")
        .expect("is typed");
    skete
        .control
        .wait_for_state("greedy", "crashed", PATIENCE)
        .expect("is stopped");
    assert_eq!(good.run("echo alive", PATIENCE).expect("runs"), "alive");
    good.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

fn keys_are_kept_while_the_guest_runs(cpu: Cpu) {
    let skete = appliance(cpu);
    skete.push_linux();
    let mut shell = boot(&skete.control, "one", 1, 192 * MIB);
    let control = &skete.control;
    // Three pages at the end of RAM, which a kernel just booted leaves alone.
    let start = (1_u64 << 30) + 128 * MIB;
    let set = json!({ "action": "set-keys", "start": start, "values": "MEBQ" });
    assert_eq!(number(&act(control, "one", &set), "/bytes"), 3 * 4096);
    let get = json!({ "action": "get-keys", "start": start, "bytes": 4 * 4096 });
    let values = act(control, "one", &get);
    let text = values.pointer("/values").and_then(Value::as_str);
    // 0x30, 0x40, 0x50 and no key; nobody touched them since.
    assert_eq!(text, Some("MEBQAA=="), "{values}");
    assert_eq!(memory(control, "one")["keys"], true);
    shell.check(1, 192 * MIB).expect("goes on");
    // Linux knows nothing of page states: every page is stable.
    let states = json!({ "action": "get-states", "start": start, "bytes": 4 * 4096 });
    assert_eq!(act(control, "one", &states)["values"], "AAAAAA==");
    shell.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}

/// A guest that leaves the upper half of its RAM alone finds there what another has in its own,
/// and what it writes is seen by nobody else.
fn what_one_guest_shares_another_sees_and_each_keeps_what_it_writes(cpu: Cpu) {
    const RAM: u64 = 256 * MIB;
    /// One word of each MiB of the upper half.
    const WORDS: &str =
        "i=128; while [ $i -lt 256 ]; do a=$((0x40000800 + i*0x100000)); i=$((i+1));";
    let skete = appliance(cpu);
    skete.push_linux();
    let control = &skete.control;
    let mut one = boot(control, "one", 1, RAM);
    one.run(
        "mkdir -p /mnt && mount -t tmpfs -o size=90% t /mnt",
        PATIENCE,
    )
    .expect("runs");
    let fill = "dd if=/dev/zero bs=1M count=170 2>/dev/null | tr '\\0' '\\252' >/mnt/f; sync; \
                sha256sum </mnt/f";
    let sum = one.run(fill, PATIENCE).expect("runs");
    let used = one.run("du -m /mnt/f", PATIENCE).expect("runs");
    assert!(used.starts_with("170"), "{used}");
    let mut boots = linux();
    boots["cmdline"] = json!("console=ttyAMA0 mem=128M");
    control
        .define("two", 1, RAM, &boots)
        .expect("can be defined");
    control.start("two").expect("starts");
    let mut two = Shell::wait(control, "two", PATIENCE).expect("boots to a shell");
    let mut share = json!({
        "action": "share", "from": "one", "start": (1 << 30) + 128 * MIB, "bytes": 128 * MIB,
    });
    let mut bytes = 0;
    loop {
        let done = act(control, "two", &share);
        bytes += number(&done, "/bytes");
        match done.pointer("/next").and_then(Value::as_u64) {
            Some(next) => {
                share["bytes"] = json!((1 << 30) + RAM - next);
                share["start"] = json!(next);
            }
            None => break,
        }
    }
    assert!(bytes > 64 * MIB, "{bytes}");
    let shared = number(&memory(control, "two"), "/shared_bytes");
    assert!(shared > 64 * MIB, "{shared}");
    let count =
        format!("n=0; {WORDS} [ $(devmem $a 32) = 0xAAAAAAAA ] && n=$((n+1)); done; echo $n");
    let seen: u32 = two
        .run(&count, PATIENCE)
        .expect("runs")
        .parse()
        .expect("a number");
    assert!(
        seen >= 32,
        "{seen} of 128 words are those of the other guest"
    );
    let change = format!(
        "n=0; {WORDS} devmem $a 32 0x12345678; [ $(devmem $a 32) = 0x12345678 ] && n=$((n+1)); done; echo $n"
    );
    assert_eq!(two.run(&change, PATIENCE).expect("runs"), "128");
    assert_eq!(one.run("sha256sum </mnt/f", PATIENCE).expect("runs"), sum);
    // And the other way round.
    one.run(
        "rm /mnt/f; dd if=/dev/zero of=/mnt/g bs=1M count=170 2>/dev/null",
        PATIENCE,
    )
    .expect("runs");
    let still =
        format!("n=0; {WORDS} [ $(devmem $a 32) = 0x12345678 ] && n=$((n+1)); done; echo $n");
    assert_eq!(two.run(&still, PATIENCE).expect("runs"), "128");
    assert!(number(&memory(control, "two"), "/shared_bytes") < shared);
    one.power_off(PATIENCE).expect("ends");
    two.power_off(PATIENCE).expect("ends");
    skete.shut_down();
}
