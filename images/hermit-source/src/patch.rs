//! Patch files with several diffs and prose around them, as `diffy` does not take them.

use std::fs;
use std::path::Path;

/// The part of a patch file that is about one file.
#[derive(Debug)]
pub(crate) struct FilePatch<'a> {
    /// The file, from the root of the source.
    path: &'a str,
    /// From its `--- ` line to its last hunk.
    diff: &'a str,
}

impl<'a> FilePatch<'a> {
    /// Cuts a patch file at its `--- a/…` lines; what is before the first is its reason.
    ///
    /// # Errors
    /// A diff that does not name its file as `+++ b/…`.
    pub(crate) fn split(text: &'a str) -> Result<Vec<Self>, String> {
        const OLD: &str = "--- a/";
        let mut starts: Vec<usize> = text
            .match_indices(OLD)
            .map(|(at, _)| at)
            .filter(|&at| at == 0 || text.get(..at).is_some_and(|before| before.ends_with('\n')))
            .collect();
        starts.push(text.len());
        starts
            .windows(2)
            .map(|window| {
                let [from, to] = window else {
                    unreachable!("windows(2) gives two")
                };
                let diff = text.get(*from..*to).unwrap_or_default();
                let path = diff
                    .lines()
                    .nth(1)
                    .and_then(|line| line.strip_prefix("+++ b/"))
                    .ok_or("a diff without a `+++ b/` line")?;
                Ok(Self { path, diff })
            })
            .collect()
    }

    /// Changes the file under `root`.
    ///
    /// # Errors
    /// The file is missing, or is not what the diff was made from.
    pub(crate) fn apply(&self, root: &Path) -> Result<(), String> {
        let path = root.join(self.path);
        let complain = |words: String| format!("patching {}: {words}", self.path);
        let diff = diffy::Patch::from_str(self.diff).map_err(|e| complain(e.to_string()))?;
        let old = fs::read_to_string(&path).map_err(|e| complain(e.to_string()))?;
        let new = diffy::apply(&old, &diff).map_err(|e| complain(e.to_string()))?;
        fs::write(&path, new).map_err(|e| complain(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "Reason.\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-one\n+two\n\
                       --- a/d/y\n+++ b/d/y\n@@ -1 +1 @@\n-three\n+four\n";

    #[test]
    fn a_patch_file_with_two_diffs_is_cut_into_two() {
        let parts = FilePatch::split(TWO).expect("well-formed");
        let paths: Vec<_> = parts.iter().map(|part| part.path).collect();
        assert_eq!(paths, ["x", "d/y"]);
        assert!(parts[0].diff.ends_with("+two\n"));
    }

    #[test]
    fn a_diff_against_other_text_is_refused() {
        let root = std::env::temp_dir().join(format!("skete-patch-{}", std::process::id()));
        fs::create_dir_all(root.join("d")).expect("a writable temporary folder");
        fs::write(root.join("x"), "one\n").expect("writable");
        fs::write(root.join("d/y"), "other\n").expect("writable");
        let parts = FilePatch::split(TWO).expect("well-formed");
        assert_eq!(parts[0].apply(&root), Ok(()));
        assert_eq!(
            fs::read_to_string(root.join("x")).expect("readable"),
            "two\n"
        );
        assert!(parts[1].apply(&root).is_err());
        fs::remove_dir_all(&root).expect("removable");
    }
}
