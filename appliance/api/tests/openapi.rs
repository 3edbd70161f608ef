//! The committed OpenAPI document is the one that the types make.

use std::path::Path;

use serde::Serialize as _;

/// With `UPDATE=1` in the environment, writes the document instead.
#[test]
fn the_committed_document_is_the_one_the_types_make() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    // Lines, so that a difference can be reviewed; no indentation, because it is served so.
    let mut made = Vec::new();
    let lines = serde_json::ser::PrettyFormatter::with_indent(b"");
    let mut writer = serde_json::Serializer::with_formatter(&mut made, lines);
    api::openapi::document()
        .serialize(&mut writer)
        .expect("JSON");
    let made = String::from_utf8(made).expect("text") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).expect("the file is written");
    }
    let committed = std::fs::read_to_string(&path).expect("the file is read");
    assert!(
        committed == made,
        "run `UPDATE=1 cargo test -p skete-api --test openapi` and review the difference"
    );
    assert!(
        api::OPENAPI_JSON == committed,
        "built before the file changed"
    );
}
