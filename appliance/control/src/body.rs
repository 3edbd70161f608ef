//! JSON bodies, read with care for who wrote them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use api::{Code, Problem};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Reads a JSON body of type `T`, refusing fields that `T` does not have.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut unknown: Vec<String> = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let result = {
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        serde_ignored::deserialize(tracked, |path| {
            // Bounded: a body of a megabyte can hold very many unknown fields.
            if unknown.len() < 16 {
                unknown.push(format!("/{path}").replace('.', "/").replace("/?", ""));
            }
        })
    };
    let value = result
        .and_then(|value: T| json.end().map(|()| value))
        .map_err(|why| refuse(&why, &track.path().to_string()))?;
    if unknown.is_empty() {
        return Ok(value);
    }
    let problem = Problem::new(
        Code::Invalid,
        "the body has fields that this server does not know",
    )
    .hint("check the spelling; GET /v1 lists what this server can do under api_extensions");
    Err(unknown
        .into_iter()
        .fold(problem, |p, path| p.field(path, "unknown field")))
}

fn refuse(why: &serde_json::Error, path: &str) -> Problem {
    let text = why.to_string();
    match why.classify() {
        Category::Data => {
            let pointer = match path {
                "." | "" => String::new(),
                path => format!("/{}", path.replace(['.', '['], "/").replace(']', "")),
            };
            Problem::new(Code::Invalid, format!("the body does not fit: {text}"))
                .field(pointer, text)
        }
        Category::Io | Category::Syntax | Category::Eof => {
            Problem::new(Code::BadJson, format!("the body is not JSON: {text}"))
        }
    }
}
