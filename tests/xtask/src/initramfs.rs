//! A user space of one program: busybox, and the script that starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::Result;
use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compression, GzBuilder};

/// What the kernel runs first. `poweroff -f` ends in PSCI SYSTEM_OFF.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
hostname guest
cat <<EOF

  Linux $(uname -r) on $(uname -m): $(nproc) CPU(s), $(sed -n 's/MemTotal: *//p' /proc/meminfo)
  This is a guest of Skete. \\`poweroff -f\\` switches it off.

EOF
echo skete-guest: ready
# Process 1 must not end: a shell that is left is started again.
while true; do
    cd /root
    setsid cttyhack sh
done
";

/// What the kernel runs instead under `rdinit=/bench`: the shortest life of a user space.
const BENCH: &str = "\
#!/bin/busybox sh
echo skete-guest: ready
exec /bin/busybox poweroff -f
";

/// An archive in the making.
struct Archive {
    out: Vec<u8>,
    inode: u32,
}

impl Archive {
    const fn new() -> Self {
        Self {
            out: Vec::new(),
            inode: 0,
        }
    }

    fn entry(
        &mut self,
        kind: impl FnOnce(Builder) -> Builder,
        name: &str,
        data: &[u8],
    ) -> Result<()> {
        self.inode += 1;
        let header = kind(Builder::new(name).ino(self.inode));
        let mut file = header.write(&mut self.out, u32::try_from(data.len())?);
        file.write_all(data)?;
        file.finish()?;
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let directory = ModeFileType::Directory;
        self.entry(|b| b.mode(0o755).set_mode_file_type(directory), name, &[])
    }

    fn program(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let file = ModeFileType::Regular;
        self.entry(|b| b.mode(0o755).set_mode_file_type(file), name, data)
    }

    /// Ends it, and compresses it without time and name: the same files give the same bytes.
    fn gzip(mut self) -> Result<Vec<u8>> {
        trailer(&mut self.out)?;
        let mut gzip = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::default());
        gzip.write_all(&self.out)?;
        Ok(gzip.finish()?)
    }
}

/// Builds the archive, gzipped, around a statically linked busybox for the guest.
pub(crate) fn build(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for name in ["bin", "dev", "proc", "sys", "tmp", "root", "etc"] {
        archive.directory(name)?;
    }
    archive.program("bin/busybox", busybox)?;
    archive.program("init", INIT.as_bytes())?;
    archive.program("bench", BENCH.as_bytes())?;
    // The kernel opens it for the first program; devtmpfs is not mounted by then.
    let console = |builder: Builder| {
        builder
            .mode(0o600)
            .set_mode_file_type(ModeFileType::Char)
            .rdev_major(5)
            .rdev_minor(1)
    };
    archive.entry(console, "dev/console", &[])?;
    archive.gzip()
}

/// Builds an archive, gzipped, of files by path; Linux takes it behind the other. Directories
/// are made as they are needed.
pub(crate) fn of_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    let mut made = BTreeSet::new();
    for (path, data) in files {
        for (at, _) in path.match_indices('/') {
            let (parent, _) = path.split_at(at);
            if made.insert(parent) {
                archive.directory(parent)?;
            }
        }
        archive.program(path, data)?;
    }
    archive.gzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_archive_holds_a_program_to_start_and_a_console_for_it() {
        let gzip = build(b"\x7fELF").expect("memory suffices");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..])
            .read_to_end(&mut plain)
            .expect("is gzip");
        assert!(plain.starts_with(b"070701"));
        let has = |bytes: &[u8]| plain.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"init\0") && has(b"bin/busybox\0") && has(b"dev/console\0"));
        // Mode, then rdev 5:1, as newc writes them.
        assert!(has(b"00002180") && has(b"0000000500000001"));
        assert!(has(b"TRAILER!!!"));
        assert_eq!(gzip, build(b"\x7fELF").expect("again"));
    }

    #[test]
    fn every_directory_comes_once_and_before_what_is_in_it() {
        let files = ["a/b/c", "a/b/d", "a/e"].map(|path| (path.to_owned(), b"x".to_vec()));
        let gzip = of_files(&files.into()).expect("memory suffices");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..])
            .read_to_end(&mut plain)
            .expect("is gzip");
        let text = String::from_utf8_lossy(&plain).into_owned();
        let at = |name: &str| {
            let found: Vec<_> = text.match_indices(name).map(|(at, _)| at).collect();
            assert_eq!(found.len(), 1, "{name:?}");
            found[0]
        };
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0"));
        assert!(at("a/b/d\0") < at("a/e\0"));
    }
}
