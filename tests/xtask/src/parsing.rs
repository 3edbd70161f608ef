//! What the command line accepts, tested without running anything (row D01). Commands and
//! options are the parser's own list, so that a new one is tested as soon as it is there.

use clap::{Arg, ArgAction, CommandFactory as _, Parser as _};
use proptest::prelude::*;

use crate::Line;

/// Values that options accept; what is not here takes any word.
const GOOD: [(&str, &str); 10] = [
    ("moves", "5000"),
    ("runs", "100"),
    ("rounds", "300"),
    ("lives", "300"),
    ("switches", "400"),
    ("seed", "7"),
    ("cpu", "cortex-a72"),
    ("smp", "3"),
    ("memory", "512M"),
    ("shard", "1/40"),
];

fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<(), clap::Error> {
    Line::try_parse_from(std::iter::once("xtask").chain(words)).map(|_| ())
}

/// An option, and every way to write it.
type Spelt = (String, Vec<Vec<String>>);

/// Every command that is whole, those of another (`stress migrate`) included, and its parser.
fn parsers() -> Vec<(String, clap::Command)> {
    let mut all = Vec::new();
    for command in Line::command().get_subcommands() {
        let name = command.get_name();
        if !command.has_subcommands() {
            all.push((name.to_owned(), command.clone()));
        }
        for inner in command.get_subcommands() {
            all.push((format!("{name} {}", inner.get_name()), inner.clone()));
        }
    }
    all
}

/// The same with every option.
fn commands() -> Vec<(String, Vec<Spelt>)> {
    let options = |command: &clap::Command| {
        let long = command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some());
        long.map(|arg| (name(arg), spellings(arg))).collect()
    };
    parsers()
        .iter()
        .map(|(name, command)| (name.clone(), options(command)))
        .collect()
}

fn name(arg: &Arg) -> String {
    format!("--{}", arg.get_long().unwrap_or_default())
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn spellings(arg: &Arg) -> Vec<Vec<String>> {
    let name = name(arg);
    if !takes_value(arg) {
        return vec![vec![name]];
    }
    let known = GOOD.iter().find(|(id, _)| arg.get_id() == id);
    let value = known.map_or("word", |(_, value)| value);
    vec![
        vec![name.clone(), value.to_owned()],
        vec![format!("{name}={value}")],
    ]
}

fn words<'a>(command: &'a str, more: &[&'a Vec<String>]) -> Vec<&'a str> {
    let more = more
        .iter()
        .flat_map(|words| words.iter().map(String::as_str));
    command.split(' ').chain(more).collect()
}

#[test]
fn d01_the_parser_is_consistent() {
    Line::command().debug_assert();
    let all = commands();
    assert!(all.iter().any(|(_, options)| options.len() >= 3), "{all:?}");
}

#[test]
fn d01_every_option_and_every_pair_in_both_orders_is_accepted() {
    for (command, options) in commands() {
        assert!(parse(command.split(' ')).is_ok(), "{command} alone");
        for (first, ones) in &options {
            for one in ones {
                let line = words(&command, &[one]);
                assert!(parse(line.clone()).is_ok(), "{line:?}");
                for (_, twos) in options.iter().filter(|(second, _)| second != first) {
                    for two in twos {
                        for line in [words(&command, &[one, two]), words(&command, &[two, one])] {
                            assert!(parse(line.clone()).is_ok(), "{line:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The bug that the row is named for: an option that takes no value took the next word's.
#[test]
fn d01_an_option_without_a_value_takes_none_and_a_missing_one_is_named() {
    for (command, parser) in parsers() {
        for arg in parser
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
        {
            let name = name(arg);
            let word = if takes_value(arg) {
                name.clone()
            } else {
                format!("{name}=x")
            };
            let why = parse(command.split(' ').chain([word.as_str()])).expect_err("is refused");
            assert_eq!(why.exit_code(), 2, "{word}");
            assert!(why.to_string().contains(&name), "{word}: {why}");
        }
    }
}

#[test]
fn d01_a_wrong_value_is_refused_with_the_option_s_name() {
    for (command, option, value) in [
        ("run", "--cpu", "pentium"),
        ("run", "--cpu", ""),
        ("demo", "--smp", "two"),
        ("demo", "--smp", "-1"),
        ("debug", "--smp", "99999999999"),
    ] {
        let word = format!("{option}={value}");
        let why = parse([command, word.as_str()]).expect_err("a wrong value");
        assert_eq!(why.exit_code(), 2, "{command} {word}");
        assert!(why.to_string().contains(option), "{command} {word}: {why}");
    }
}

proptest! {
    /// No command line makes the parser panic, and what it refuses it refuses with 2.
    #[test]
    fn d01_no_command_line_breaks_the_parser(words in prop::collection::vec(prop_oneof![
        3 => prop::sample::select(vec![
            "setup", "build", "check", "test", "bench", "demo", "run", "debug", "mutants", "help",
            "--cpu", "--smp", "--memory", "--json", "--long", "--shard", "--package", "-p", "max",
            "2", "--", "-", "--check", "-h", "--cpu=max", "--smp=", "=", "1/0",
        ]).prop_map(str::to_owned),
        1 => ".{0,12}",
        1 => "--[a-z-]{1,10}(=.{0,8})?",
    ], 0..8)) {
        if let Err(why) = parse(words.iter().map(String::as_str)) {
            prop_assert!([0, 2].contains(&why.exit_code()));
            prop_assert!(!why.to_string().is_empty());
        }
    }
}
