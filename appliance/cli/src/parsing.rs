//! What the command line accepts, tested without running anything.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use proptest::prelude::*;

use crate::args::Cli;

/// A command that can be run as it is, and every option of it with a good value; `None`
/// for an option that takes none.
type Row = (
    &'static str,
    &'static [(&'static str, Option<&'static str>)],
);

const GLOBAL: [(&str, Option<&str>); 4] = [
    ("--url", Some("http://127.0.0.1:1")),
    ("--token", Some("t")),
    ("--json", None),
    ("--quiet", None),
];

const COMMANDS: [Row; 38] = [
    ("host", &[]),
    ("vm cpu show web", &[]),
    (
        "vm cpu set web",
        &[
            ("--weight", Some("200")),
            ("--cpu-limit", Some("150%")),
            ("--hide", Some("stolen-time,page-states")),
        ],
    ),
    ("vm cpu pin web 0 0,2-3", &[]),
    ("vm memory show web", &[]),
    (
        "vm memory set web",
        &[
            ("--limit", Some("1GiB")),
            ("--largest-leaf", Some("2MiB")),
            ("--wipe", Some("true")),
            ("--exact-dirty", Some("false")),
        ],
    ),
    (
        "vm memory reclaim web",
        &[
            ("--kind", Some("zero")),
            ("--most", Some("64MiB")),
            ("--start", Some("0x40000000")),
            ("--length", Some("2MiB")),
        ],
    ),
    ("vm memory move web", &[("--start", Some("1073741824"))]),
    ("vm memory split web", &[("--length", Some("4K"))]),
    ("vm memory scan web host-dirty", &[("--list", None)]),
    ("vm memory keys get web 0x40000000", &[]),
    ("vm memory states set web 0x40000000 8KiB 0x40", &[]),
    ("image push FILE --name n", &[("--kind", Some("kernel"))]),
    ("image ls", &[]),
    ("image rm a", &[]),
    (
        "vm create web --kernel k",
        &[
            ("--file", Some("x.toml")),
            ("--initrd", Some("i")),
            ("--cmdline", Some("-x y=z")),
            ("--cpus", Some("2")),
            ("--memory", Some("512MiB")),
            ("--device", Some("00:03.0,profile=nvme")),
            ("--weight", Some("1")),
            ("--cpu-limit", Some("none")),
            ("--pin", Some("0=1")),
            ("--hide", Some("preempt-hint")),
        ],
    ),
    (
        "vm create web",
        &[("--flat", Some("f")), ("--cpus", Some("8"))],
    ),
    (
        "vm create web",
        &[("--elf", Some("e")), ("--memory", Some("16777216"))],
    ),
    ("vm start a", &[]),
    ("vm stop a", &[("--force", None)]),
    ("vm reset a", &[]),
    ("vm restart a b", &[]),
    ("vm ls", &[]),
    ("vm show a", &[]),
    ("vm rm a", &[("--force", None)]),
    ("device ls", &[]),
    ("device show 00:03.0", &[]),
    (
        "device attach web 00:03.0",
        &[
            ("--profile", Some("nvme")),
            ("--memory", Some("0000:00:04.0")),
            ("--registers-bar", Some("2")),
            ("--unsafe-dma", None),
            ("--declared-dma", None),
        ],
    ),
    ("device detach web 00:03.0", &[]),
    ("device reset 0000:00:03.0", &[]),
    ("device revoke 00:03.0 2 0x200000 2MiB", &[]),
    ("device read 00:03.0 0 0x1c", &[("--raw", None)]),
    ("device write 00:03.0 0 0x14 00004600", &[]),
    ("device touches 00:03.0", &[]),
    ("console a", &[("--log", None), ("--keep", None)]),
    ("events", &[("--since", Some("3")), ("--no-follow", None)]),
    ("shutdown", &[("--reset", None)]),
    ("restart-control", &[("--no-wait", None)]),
];

fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("skete").chain(words))
}

/// Every way to write an option.
fn spellings(option: (&'static str, Option<&'static str>)) -> Vec<Vec<String>> {
    match option {
        (name, None) => vec![vec![name.into()]],
        (name, Some(value)) => vec![
            vec![name.into(), value.into()],
            vec![format!("{name}={value}")],
        ],
    }
}

fn accepted(command: &str, more: &[&Vec<String>]) -> bool {
    let words = command.split(' ');
    let more = more
        .iter()
        .flat_map(|words| words.iter().map(String::as_str));
    parse(words.chain(more)).is_ok()
}

#[test]
fn the_parser_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_and_every_pair_in_both_orders_is_accepted() {
    for (command, own) in COMMANDS {
        assert!(parse(command.split(' ')).is_ok(), "{command} alone");
        let options: Vec<_> = own.iter().copied().chain(GLOBAL).collect();
        for first in &options {
            for one in spellings(*first) {
                assert!(accepted(command, &[&one]), "{command} {one:?}");
                for second in options.iter().filter(|second| second.0 != first.0) {
                    for two in spellings(*second) {
                        assert!(
                            accepted(command, &[&one, &two]),
                            "{command} {one:?} {two:?}"
                        );
                        assert!(
                            accepted(command, &[&two, &one]),
                            "{command} {two:?} {one:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn an_option_without_a_value_takes_none() {
    for (command, own) in COMMANDS {
        for (name, value) in own.iter().copied().chain(GLOBAL) {
            if value.is_some() {
                continue;
            }
            let why = parse(command.split(' ').chain([format!("{name}=x").as_str()]))
                .expect_err("a value is too much");
            assert!(why.to_string().contains(name), "{why}");
            // The word after it is a word of its own: here, one too many.
            let extra = parse(["host", "--json", "extra"]).expect_err("host takes nothing");
            assert!(extra.to_string().contains("extra"));
        }
    }
}

#[test]
fn a_missing_value_is_reported_with_the_option() {
    for (command, own) in COMMANDS {
        for (name, value) in own.iter().copied().chain(GLOBAL) {
            if value.is_none() {
                continue;
            }
            let why = parse(command.split(' ').chain([name])).expect_err("a value is missing");
            assert_eq!(why.exit_code(), 2);
            assert!(why.to_string().contains(name), "{command} {name}: {why}");
        }
    }
}

#[test]
fn a_wrong_value_is_reported_with_the_option() {
    for (command, option, value) in [
        ("vm create a --flat f", "--cpus", "0"),
        ("vm create a --flat f", "--cpus", "9"),
        ("vm create a --flat f", "--cpus", "two"),
        ("vm create a --flat f", "--cpus", ""),
        ("vm create a --flat f", "--memory", "lots"),
        ("vm create a --flat f", "--memory", "-1"),
        ("vm create a --flat f", "--memory", "99999999999999999999"),
        ("vm create a --flat f", "--memory", "99999999999GiB"),
        ("vm cpu set a", "--weight", "0"),
        ("vm cpu set a", "--weight", "10001"),
        ("vm cpu set a", "--cpu-limit", "0"),
        ("vm cpu set a", "--hide", "everything"),
        ("vm create a --flat f", "--pin", "0"),
        ("vm create a --flat f", "--pin", "x=1"),
        ("vm create a", "--kernel", "NOT_A_NAME"),
        ("vm create a", "--flat", ""),
        ("image push f", "--name", "-"),
        ("image push f --name n", "--kind", "iso"),
        ("events", "--since", "yesterday"),
        ("events", "--since", "-1"),
    ] {
        let word = format!("{option}={value}");
        let why = parse(command.split(' ').chain([word.as_str()])).expect_err("a wrong value");
        assert_eq!(why.exit_code(), 2, "{command} {word}");
        assert!(why.to_string().contains(option), "{command} {word}: {why}");
    }
}

#[test]
fn what_excludes_each_other_is_refused() {
    for command in [
        "vm create a --kernel k --flat f",
        "vm create a --flat f --elf e",
        "console a --follow",
        "image push f",
        "image rm",
        "vm start",
        "vm",
        "",
        "vm create a --flat f --flat g",
        "completions tcsh",
    ] {
        let why = parse(command.split(' ').filter(|word| !word.is_empty()))
            .expect_err("nobody can mean this");
        assert_eq!(why.exit_code(), 2, "{command}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (words, kind) in [
        ("--help", ErrorKind::DisplayHelp),
        ("--version", ErrorKind::DisplayVersion),
        ("vm create --help", ErrorKind::DisplayHelp),
        ("help vm", ErrorKind::DisplayHelp),
    ] {
        let shown = parse(words.split(' ')).expect_err("clap calls it an error");
        assert_eq!((shown.kind(), shown.exit_code()), (kind, 0), "{words}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// No command line makes the parser panic, and what it refuses it refuses with 2.
    #[test]
    fn no_command_line_breaks_the_parser(words in prop::collection::vec(prop_oneof![
        3 => prop::sample::select(vec![
            "host", "image", "push", "ls", "rm", "vm", "create", "start", "stop", "console",
            "events", "shutdown", "completions", "bash", "help", "--", "-", "--url", "--token",
            "--json", "-q", "--name", "--kind", "--cpus", "--memory", "--cmdline", "--kernel",
            "-f", "--follow", "--log", "--since", "--force", "-h", "-V", "=", "a", "-1", "512MiB",
        ]).prop_map(str::to_owned),
        1 => ".{0,12}",
        1 => "--[a-z-]{1,10}(=.{0,8})?",
    ], 0..10)) {
        if let Err(why) = parse(words.iter().map(String::as_str)) {
            prop_assert!([0, 2].contains(&why.exit_code()));
            prop_assert!(!why.to_string().is_empty());
        }
    }

    /// Sizes are read as they are written, and no text makes the reader panic.
    #[test]
    fn sizes_are_read_or_refused(text in ".{0,24}", number in any::<u64>(), unit in 0usize..3) {
        let _ = skete_client::size::parse(&text);
        let (name, bytes) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)][unit];
        prop_assert_eq!(
            skete_client::size::parse(&format!("{number}{name}")).ok(),
            number.checked_mul(bytes)
        );
    }
}
