//! The page about the control port knows every error and every path.

use std::path::Path;

use api::{Blame, Code};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-port.md");
    std::fs::read_to_string(path).expect("the page is read")
}

#[test]
fn every_error_is_explained() {
    let page = page();
    for code in Code::ALL {
        let blame = match code.blame() {
            Blame::Client => "client",
            Blame::Appliance => "appliance",
            Blame::Guest => "guest",
        };
        let retry = if code.retryable() { "yes" } else { "no" };
        let (name, status, title) = (code.name(), code.status(), code.title());
        let row = format!("| `{name}` | {status} | {blame} | {retry} | {title} ");
        let line = page.lines().find(|line| line.starts_with(&row));
        assert!(
            line.is_some_and(|line| line.len() > row.len() + 10),
            "{row}"
        );
    }
}

#[test]
fn every_path_is_listed() {
    let page = page();
    for (path, _) in api::openapi::routes() {
        assert!(
            page.contains(&format!("`{path}`")) || page.contains(&format!("GET {path}`")),
            "{path}"
        );
    }
}
