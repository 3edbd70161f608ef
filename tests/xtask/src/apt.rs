//! Debian's package manager: installing on this machine, and fetching for another architecture.
//!
//! The address of a mirror is always that of the machine's own package sources; none is
//! written in this repository.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{command, has, output, run};

/// One line of the package sources: a mirror, its suites, and the key that signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Source {
    fn deb822(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uri,
            self.suites.join(" "),
            self.components.join(" ")
        );
        if let Some(key) = &self.signed_by {
            text.push_str("Signed-By: ");
            text.push_str(key);
            text.push('\n');
        }
        text
    }
}

/// Reads package sources in either of apt's formats; `one_line` says which.
fn parse(text: &str, one_line: bool) -> Vec<Source> {
    if one_line {
        return text.lines().filter_map(parse_line).collect();
    }
    let visible: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line.trim_end() + "\n");
    visible.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

fn parse_stanza(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.eq_ignore_ascii_case(name)).then(|| value.trim().to_owned())
        })
    };
    let words = |name| -> Option<Vec<String>> {
        Some(field(name)?.split_whitespace().map(str::to_owned).collect())
    };
    if !words("Types")?.iter().any(|kind| kind == "deb")
        || field("Enabled").is_some_and(|enabled| enabled == "no")
    {
        return None;
    }
    Some(Source {
        uri: words("URIs")?.into_iter().next()?,
        suites: words("Suites")?,
        components: words("Components")?,
        // A key within the stanza itself is continued on further lines: not handled.
        signed_by: field("Signed-By").filter(|key| key.starts_with('/')),
    })
}

/// The machine's package sources.
fn sources() -> Vec<Source> {
    let mut files = vec!["/etc/apt/sources.list".into()];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|part| part.path()));
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let one_line = file.extension().is_some_and(|ext| ext == "list");
        if (one_line || file.extension().is_some_and(|ext| ext == "sources"))
            && let Ok(text) = fs::read_to_string(&file)
        {
            all.extend(parse(&text, one_line));
        }
    }
    all
}

/// The machine's Debian sources: those that name `codename` or one of its additions.
fn debian(codename: &str) -> Result<Vec<Source>> {
    let ours: Vec<Source> = sources()
        .into_iter()
        .filter(|source| {
            source
                .suites
                .iter()
                .any(|suite| suite.starts_with(codename))
        })
        .collect();
    if ours.is_empty() {
        bail!("no package source in /etc/apt names {codename}");
    }
    Ok(ours)
}

/// The release's name in the sources, as `bookworm`.
pub(crate) fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release")?.to_owned())
}

/// Runs a command as root, with sudo where needed; never asks for a password.
fn as_root(words: &[&str]) -> Result<()> {
    let root = output(&mut command("id", &["-u"]))?.trim() == "0";
    let line = words.join(" ");
    let mut privileged = if root {
        command("env", &["DEBIAN_FRONTEND=noninteractive"])
    } else if has("sudo") {
        command("sudo", &["-n", "env", "DEBIAN_FRONTEND=noninteractive"])
    } else {
        bail!("run this as root, then try again: {line}");
    };
    run(privileged.args(words)).with_context(|| format!("run this as root, then try again: {line}"))
}

/// Installs packages, from `suite` if one is named.
pub(crate) fn install(packages: &[&str], suite: Option<&str>) -> Result<()> {
    if !has("apt-get") {
        bail!("this is no Debian: install {} by hand", packages.join(" "));
    }
    let target = suite.map_or_else(String::new, |suite| format!(" from {suite}"));
    eprintln!("setup: installing {}{target}", packages.join(" "));
    as_root(&["apt-get", "-qq", "update"])?;
    let mut line = vec!["apt-get", "-qq", "install", "-y", "--no-install-recommends"];
    line.extend(suite.iter().flat_map(|suite| ["-t", suite]));
    line.extend(packages);
    as_root(&line)
}

/// Adds `<codename>-backports` to the machine's package sources unless it is there.
pub(crate) fn add_backports(codename: &str) -> Result<String> {
    let suite = format!("{codename}-backports");
    let ours = debian(codename)?;
    if ours.iter().any(|source| source.suites.contains(&suite)) {
        return Ok(suite);
    }
    let mut source = ours
        .into_iter()
        .find(|source| source.suites.iter().any(|suite| suite == codename))
        .with_context(|| format!("no package source in /etc/apt has the suite {codename}"))?;
    source.suites = vec![suite.clone()];
    source.components = vec!["main".to_owned()];
    eprintln!("setup: adding {suite} to the package sources");
    let file = std::env::temp_dir().join(format!("skete-{}.sources", std::process::id()));
    fs::write(&file, source.deb822())?;
    let installed = as_root(&[
        "install",
        "-m",
        "644",
        &file.to_string_lossy(),
        "/etc/apt/sources.list.d/skete-backports.sources",
    ]);
    fs::remove_file(&file)?;
    installed.map(|()| suite)
}

/// A private view of Debian's archive for one architecture, under one directory: the
/// machine's own package lists and its list of architectures are left alone.
#[derive(Debug)]
pub(crate) struct Archive<'a> {
    dir: &'a Path,
    architecture: &'a str,
}

impl<'a> Archive<'a> {
    /// Fetches the package lists into `dir`.
    pub(crate) fn update(dir: &'a Path, architecture: &'a str) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("state/status"), "")?;
        let text: Vec<String> = debian(&codename()?)?
            .iter()
            .map(|source| {
                let mut source = source.clone();
                source.components = vec!["main".to_owned()];
                source.deb822()
            })
            .collect();
        fs::write(dir.join("sources/debian.sources"), text.join("\n"))?;
        let archive = Self { dir, architecture };
        output(archive.apt("apt-get").args(["-q", "update"]))?;
        Ok(archive)
    }

    fn apt(&self, program: &str) -> std::process::Command {
        let at = |part: &str| self.dir.join(part).display().to_string();
        let mut apt = command(program, &[]);
        apt.current_dir(self.dir).args([
            format!("-oAPT::Architecture={}", self.architecture),
            format!("-oAPT::Architectures={}", self.architecture),
            "-oAcquire::Languages=none".to_owned(),
            "-oAPT::Sandbox::User=".to_owned(),
            "-oDir::Etc::SourceList=/dev/null".to_owned(),
            format!("-oDir::Etc::SourceParts={}", at("sources")),
            format!("-oDir::State={}", at("state")),
            format!("-oDir::State::status={}", at("state/status")),
            format!("-oDir::Cache={}", at("cache")),
        ]);
        apt
    }

    /// The first package that `package` depends on and whose name starts with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let list = output(self.apt("apt-cache").args(["depends", package]))?;
        list.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}…"))
    }

    /// Downloads packages, whose signatures apt checks, and unpacks them into `to`.
    pub(crate) fn unpack(&self, packages: &[&str], to: &Path) -> Result<()> {
        for old in debs(self.dir)? {
            fs::remove_file(old)?;
        }
        output(self.apt("apt-get").args(["-q", "download"]).args(packages))?;
        for deb in debs(self.dir)? {
            output(command("dpkg", &["-x"]).arg(&deb).arg(to))?;
        }
        Ok(())
    }
}

fn debs(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let files = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    Ok(files
        .filter(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_package_sources_say_the_same() {
        let line = "# deb http://no.invalid/x y z\n\
                    deb [arch=amd64 signed-by=/key.gpg] http://mirror.invalid/debian bookworm main\n\
                    deb-src http://mirror.invalid/debian bookworm main\n";
        let stanza = "Types: deb\n# a comment\nURIs: http://mirror.invalid/debian\n\
                      Suites: bookworm\nComponents: main\nSigned-By: /key.gpg\n\n\
                      Types: deb\nEnabled: no\nURIs: http://x.invalid\nSuites: bookworm\nComponents: main\n\n\
                      Types: deb-src\nURIs: http://x.invalid\nSuites: bookworm\nComponents: main\n";
        let expected = vec![Source {
            uri: "http://mirror.invalid/debian".to_owned(),
            suites: vec!["bookworm".to_owned()],
            components: vec!["main".to_owned()],
            signed_by: Some("/key.gpg".to_owned()),
        }];
        assert_eq!(parse(line, true), expected);
        assert_eq!(parse(stanza, false), expected);
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let source = Source {
            uri: "http://mirror.invalid/debian".to_owned(),
            suites: vec!["trixie".to_owned(), "trixie-updates".to_owned()],
            components: vec!["main".to_owned()],
            signed_by: None,
        };
        assert_eq!(parse(&source.deb822(), false), vec![source]);
    }
}
