//! A user space of one program: busybox, and the script that starts it.

use std::io::{Cursor, Write};

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

/// Builds the archive, gzipped, around a statically linked busybox for the guest.
pub(crate) fn build(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut inode = 0;
    let mut entry = |builder: fn(Builder) -> Builder, name: &str, data: &[u8]| -> Result<()> {
        inode += 1;
        let header = builder(Builder::new(name).ino(inode));
        let mut file = header.write(&mut out, u32::try_from(data.len())?);
        file.write_all(data)?;
        file.finish()?;
        Ok(())
    };
    let directory = |builder: Builder| {
        builder
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory)
    };
    for name in ["bin", "dev", "proc", "sys", "tmp", "root", "etc"] {
        entry(directory, name, &[])?;
    }
    let program = |builder: Builder| {
        builder
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular)
    };
    entry(program, "bin/busybox", busybox)?;
    entry(program, "init", INIT.as_bytes())?;
    entry(program, "bench", BENCH.as_bytes())?;
    // The kernel opens it for the first program; devtmpfs is not mounted by then.
    let console = |builder: Builder| {
        builder
            .mode(0o600)
            .set_mode_file_type(ModeFileType::Char)
            .rdev_major(5)
            .rdev_minor(1)
    };
    entry(console, "dev/console", &[])?;
    trailer(&mut out)?;

    // No time and no name: the same packages give the same bytes.
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    gzip.write_all(Cursor::new(out).get_ref())?;
    Ok(gzip.finish()?)
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
}
