//! The specification, and what a crate says of its rows, name tests by the beginning of their
//! names, as `b04_…`: they are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Appends every Rust file below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() && !name.is_some_and(|name| name == "target" || name.starts_with('.')) {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Appends the names of functions and modules, and strings: tests in guests are named by those.
fn names(source: &str, names: &mut BTreeSet<String>) {
    for before in ["fn ", "mod ", "\""] {
        for rest in source.split(before).skip(1) {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            names.insert(rest[..end].to_owned());
        }
    }
}

/// Returns the beginnings of names, or whole modules, that a document puts in backticks with `…`.
fn beginnings(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter_map(|words| {
        let path = words.strip_suffix('…')?;
        let last = path.rsplit("::").find(|part| !part.is_empty())?;
        last.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            .then_some(last)
    })
}

#[test]
fn every_test_that_the_specification_names_is_there() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    sources(&repository, &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        names(&fs::read_to_string(file).expect("can be read"), &mut found);
    }
    let documents = ["SPECIFICATION.md", "appliance/gmap/README.md"]
        .map(|name| fs::read_to_string(repository.join(name)).expect("is there"));
    let wanted: BTreeSet<&str> = documents.iter().flat_map(|one| beginnings(one)).collect();
    assert!(wanted.len() > 50, "only {}: {wanted:?}", wanted.len());
    let missing = |wanted: &&&str| !found.iter().any(|name| name.starts_with(**wanted));
    let missing: Vec<_> = wanted.iter().filter(missing).collect();
    assert!(missing.is_empty(), "no test begins with {missing:?}");
}

#[test]
fn a_name_that_is_nowhere_is_found_out() {
    let document = "| A1 | H `devmem` `zz9_…`; Q `zz8_…` (twice) | `model::found::…` |";
    let found: Vec<_> = beginnings(document).collect();
    assert_eq!(found, ["zz9_", "zz8_", "found"]);
}
