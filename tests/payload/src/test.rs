//! Tests and how their results are told.

use crate::{cpu, println, psci, text::Text};
use core::sync::atomic::{AtomicU64, Ordering};

/// A failed expectation, in words.
pub type Failure = Text<240>;

/// What a test returns.
pub type TestResult = Result<(), Failure>;

/// A test, made by [`crate::el1_test!`].
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name, a sentence with underscores.
    pub name: &'static str,
    /// What it does.
    pub run: fn() -> TestResult,
}

static PASSED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Runs one test and prints its result.
pub fn run_test(test: &Test) {
    println!("RUN {}", test.name);
    let counter = match (test.run)() {
        Ok(()) => {
            println!("TEST {} ok", test.name);
            &PASSED
        }
        Err(why) => {
            println!("TEST {} FAIL {why}", test.name);
            &FAILED
        }
    };
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Prints the last line of a run.
pub fn summary() {
    let failed = FAILED.load(Ordering::Relaxed);
    println!(
        "SUMMARY passed={} failed={failed}",
        PASSED.load(Ordering::Relaxed)
    );
}

/// Counts a failure that ends the guest, and prints the summary.
pub(crate) fn abandon() {
    if cpu::index() == 0 {
        let failed = FAILED.load(Ordering::Relaxed);
        FAILED.store(failed + 1, Ordering::Relaxed);
    }
    summary();
}

/// Runs every test in order, prints the summary and switches the machine off.
pub fn run_tests(tests: &[Test]) -> ! {
    tests.iter().for_each(run_test);
    summary();
    psci::system_off()
}

/// Makes a [`Test`] of a function: `el1_test!(wfi_returns)`.
#[macro_export]
macro_rules! el1_test {
    ($run:path) => {
        $crate::Test {
            name: {
                const PATH: &str = stringify!($run);
                PATH
            },
            run: $run,
        }
    };
    ($name:literal, $run:path) => {
        $crate::Test {
            name: $name,
            run: $run,
        }
    };
}

/// Fails the test, by returning, with a message like `println!`'s.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::text::Text::from_args(core::format_args!(
            "{}:{}: {}", core::file!(), core::line!(), core::format_args!($($arg)*)
        )))
    };
}

/// Fails the test, by returning, unless both sides are equal.
#[macro_export]
macro_rules! expect_eq {
    ($left:expr, $right:expr $(,)?) => { $crate::expect_eq!($left, $right, "") };
    ($left:expr, $right:expr, $($arg:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    $crate::fail!(
                        "{} = {:#x?}, expected {:#x?} {}",
                        stringify!($left), left, right, core::format_args!($($arg)+)
                    )
                }
            }
        }
    };
}

/// Fails the test, by returning, unless the condition holds.
#[macro_export]
macro_rules! expect {
    ($condition:expr $(,)?) => { $crate::expect!($condition, "") };
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            $crate::fail!("not {} {}", stringify!($condition), core::format_args!($($arg)+))
        }
    };
}
