//! Images going up: hashed, streamed, and gone on with when the connection breaks.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::thread;
use std::time::Duration;

use api::{Code, Image, ImageKind, ImageState};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use ureq::SendBody;
use ureq::http::Method;

use crate::client::{Client, image_path};
use crate::error::Error;

/// How often a broken upload is gone on with before it is given up.
const RETRIES: u32 = 5;
/// How long to wait before the first retry; twice as long before every further one.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Guesses what kind of image a file is: by its first bytes, then by its name.
pub fn guess_kind(path: &Path, first: &[u8]) -> Option<ImageKind> {
    if let Some(kind) = api::magic::guess(first) {
        return Some(kind);
    }
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["initrd", "initramfs", "cpio"]) {
        Some(ImageKind::Initrd)
    } else if has(&["vmlinuz"]) || name.starts_with("image") {
        Some(ImageKind::Kernel)
    } else if name.ends_with(".bin") {
        Some(ImageKind::Flat)
    } else {
        None
    }
}

/// A file, and how much of it has gone.
struct Counted<'a> {
    file: &'a mut File,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buf)?;
        self.done = self
            .done
            .saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        (self.progress)(self.done, self.total);
        Ok(read)
    }
}

impl Client {
    /// Uploads a file as image `name`; `progress` is told how many bytes of how many have
    /// gone. If the kind is not given, it is guessed. An upload that broke, now or in an
    /// earlier call, is gone on with where it ended; an image that is there already and
    /// the same is not sent again.
    pub fn image_push(
        &self,
        path: &Path,
        name: &str,
        kind: Option<ImageKind>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Image, Error> {
        let bad_file = |why: io::Error| Error::File {
            path: path.into(),
            why: why.to_string(),
        };
        let mut file = File::open(path).map_err(bad_file)?;
        let (total, sha256, first) = examine(&mut file).map_err(bad_file)?;
        let kind = kind.or_else(|| guess_kind(path, &first)).ok_or_else(|| {
            Error::Usage(format!(
                "--kind is needed: {} tells neither by content nor by name what it is",
                path.display()
            ))
        })?;
        let image = self.image_define(name, kind, Some(total))?;
        let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        if image.sha256.as_deref() == Some(&hex) {
            progress(total, total);
            return Ok(image);
        }
        let digest = format!("sha-256=:{}:", STANDARD.encode(sha256));
        let mut resumes = image.state == ImageState::Uploading && image.size_bytes == Some(total);
        let mut resumed_blindly = resumes;
        let mut pause = RETRY_AFTER;
        let mut retries = 0u32;
        loop {
            let from = if resumes {
                self.upload_offset(name)?
            } else {
                0
            };
            file.seek(SeekFrom::Start(from)).map_err(bad_file)?;
            let mut counted = Counted {
                file: &mut file,
                done: from,
                total,
                progress: &mut *progress,
            };
            match self.upload(name, from, total, &digest, &mut counted) {
                // What an earlier call had sent was of another file.
                Err(why) if why.is(Code::WrongDigest) && resumed_blindly => {
                    (resumes, resumed_blindly) = (false, false);
                }
                Err(Error::Unreachable { .. }) if retries < RETRIES => {
                    thread::sleep(pause);
                    pause = pause.saturating_mul(2);
                    retries = retries.saturating_add(1);
                    resumes = true;
                }
                other => return other,
            }
        }
    }

    fn upload(
        &self,
        name: &str,
        from: u64,
        total: u64,
        digest: &str,
        data: &mut dyn Read,
    ) -> Result<Image, Error> {
        let path = format!("{}/data", image_path(name)?);
        let method = if from == 0 {
            Method::PUT
        } else {
            Method::PATCH
        };
        let length = total.saturating_sub(from).to_string();
        let offset = from.to_string();
        let mut headers = vec![
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", length.as_str()),
            ("Repr-Digest", digest),
            ("Expect", "100-continue"),
        ];
        if from != 0 {
            headers.push(("Upload-Offset", offset.as_str()));
        }
        let mut data = data;
        self.send(
            method,
            &path,
            &headers,
            SendBody::from_reader(&mut data),
            None,
        )?;
        self.image_get(name)
    }

    /// Returns how many bytes of an image the appliance has.
    fn upload_offset(&self, name: &str) -> Result<u64, Error> {
        let path = format!("{}/data", image_path(name)?);
        let response = self.send(Method::HEAD, &path, &[], (), Some(Duration::from_secs(30)))?;
        response
            .headers()
            .get("Upload-Offset")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| Error::Protocol("no Upload-Offset".into()))
    }
}

/// Returns a file's size, SHA-256 and first bytes.
fn examine(file: &mut File) -> io::Result<(u64, [u8; 32], Vec<u8>)> {
    let mut hash = Sha256::new();
    let mut first = Vec::new();
    let mut total = 0u64;
    let mut piece = vec![0u8; 256 << 10];
    loop {
        let read = file.read(&mut piece)?;
        let data = piece.get(..read).unwrap_or_default();
        if data.is_empty() {
            return Ok((total, hash.finalize().into(), first));
        }
        if first.is_empty() {
            first.extend_from_slice(data.get(..64).unwrap_or(data));
        }
        hash.update(data);
        total = total.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}
