//! Images arriving: streamed, hashed as they come, resumable, checked before use.

use alloc::format;
use alloc::string::String;

use api::{Code, EventType, ImageKind, Problem, magic};
use sha2::{Digest, Sha256};

use super::Server;
use super::images::{Content, not_found, path};
use crate::backend::{Backend, BackendError};
use crate::digest;
use crate::http::head::{BodyLength, Head, Method};
use crate::http::reply::Reply;

/// The state of an upload, kept when its connection breaks.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) received: u64,
    pub(super) total: u64,
    /// Which connection may append: the one that holds this number.
    turn: u64,
    hash: Sha256,
    expected: Option<[u8; 32]>,
    /// The first bytes, to see what the image is.
    start: magic::Start,
}

/// A connection's right to append to an image.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    name: String,
    turn: u64,
    /// The image is there already; the body is read and dropped.
    already: bool,
}

impl Server {
    /// Answers `HEAD /v1/images/{name}/data`: where an upload has to go on.
    pub(super) fn upload_offset(&self, name: &str) -> Result<Reply, Problem> {
        let (received, total) = self.image(name)?.extent();
        let mut reply = Reply::empty(200).header("Upload-Offset", format!("{received}"));
        if let Some(total) = total {
            reply = reply.header("Upload-Length", format!("{total}"));
        }
        Ok(reply)
    }

    /// Begins or resumes an upload.
    pub(super) fn upload_begin(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        head: &Head,
    ) -> Result<Upload, Problem> {
        let record = self.images.get(name).ok_or_else(|| {
            not_found(name).hint("PUT /v1/images/{name} with its kind comes before its data")
        })?;
        let bytes = match head.body {
            BodyLength::Bytes(bytes) => bytes,
            BodyLength::None if head.count("content-length") == 1 => 0,
            BodyLength::None | BodyLength::Chunked => {
                return Err(Problem::new(
                    Code::LengthRequired,
                    "an upload has to say how many bytes come, in Content-Length",
                ));
            }
        };
        let expected = match (head.count("repr-digest"), head.header("repr-digest")) {
            (0, _) => None,
            (_, Some(field)) => digest::parse(field)?,
            (_, None) => digest::parse("")?,
        };
        if head.count("content-encoding") != 0
            && !head
                .header("content-encoding")
                .is_some_and(|coding| coding.eq_ignore_ascii_case("identity"))
        {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "an upload with a Content-Encoding is not understood",
            )
            .hint("send the bytes as they are; a gzip-compressed kernel is an image as it is"));
        }
        let id = record.id;
        let (received, total) = record.extent();
        let stored = match &record.content {
            Content::Ready { sha256, .. } => Some(*sha256),
            Content::Empty | Content::Partial(_) => None,
        };
        let turn = self.new_key();
        let upload = Upload {
            name: name.into(),
            turn,
            already: stored.is_some(),
        };
        let resume = head.method == Some(Method::Patch);
        if let Some(stored) = stored {
            // A retry of an upload that succeeded, whose answer was lost.
            if !resume && expected == Some(stored) {
                return Ok(upload);
            }
            return Err(
                Problem::new(Code::ImageComplete, format!("image '{name}' is complete"))
                    .hint("delete the image first, or choose another name"),
            );
        }
        if resume {
            self.check_offset(name, head, received)?;
        }
        let declared = if resume && received > 0 {
            total
        } else {
            self.declared_size(name)
        };
        let from = if resume { received } else { 0 };
        let end = from.saturating_add(bytes);
        let total = declared.unwrap_or(end);
        if end > total || (!resume && end != total) {
            return Err(Problem::new(
                Code::Invalid,
                format!(
                    "image '{name}' has {total} bytes, and this upload would end at byte {end}"
                ),
            )
            .hint("delete the image and define it with the right size_bytes, or none"));
        }
        if total == 0 {
            return Err(Problem::new(
                Code::NotAnImage,
                "an image of no bytes cannot be booted",
            ));
        }
        if from == 0 {
            backend
                .image_begin(id, total)
                .map_err(|why| no_room(name, &why))?;
        }
        let Some(record) = self.images.get_mut(name) else {
            return Err(not_found(name));
        };
        match &mut record.content {
            Content::Partial(transfer) if from > 0 => {
                transfer.turn = turn;
                transfer.expected = expected.or(transfer.expected);
            }
            content => {
                *content = Content::Partial(Transfer {
                    received: 0,
                    total,
                    turn,
                    hash: Sha256::new(),
                    expected,
                    start: magic::Start::default(),
                });
            }
        }
        Ok(upload)
    }

    fn declared_size(&self, name: &str) -> Option<u64> {
        self.images
            .get(name)
            .and_then(|record| record.spec.size_bytes)
    }

    fn check_offset(&self, name: &str, head: &Head, received: u64) -> Result<(), Problem> {
        let offset = head
            .header("upload-offset")
            .and_then(|value| value.parse::<u64>().ok())
            .ok_or_else(|| {
                Problem::new(
                    Code::BadRequest,
                    "PATCH needs an Upload-Offset field, a decimal number",
                )
            })?;
        if offset == received {
            return Ok(());
        }
        Err(Problem::new(
            Code::UploadOffset,
            format!("image '{name}' has {received} bytes, and this upload begins at byte {offset}"),
        )
        .field("Upload-Offset", format!("expected {received}"))
        .hint("HEAD /v1/images/{name}/data tells the offset to go on at"))
    }

    /// Appends to an image; returns how many bytes were taken, 0 for "busy".
    pub(crate) fn upload_append(
        &mut self,
        backend: &mut dyn Backend,
        upload: &Upload,
        data: &[u8],
    ) -> Result<usize, Problem> {
        if upload.already {
            return Ok(data.len());
        }
        let name = &upload.name;
        let record = self.images.get_mut(name).ok_or_else(|| not_found(name))?;
        let id = record.id;
        let Content::Partial(transfer) = &mut record.content else {
            return Err(superseded(name));
        };
        if transfer.turn != upload.turn {
            return Err(superseded(name));
        }
        let taken = backend
            .image_append(id, data)
            .map_err(|why| no_room(name, &why))?
            .min(data.len());
        let data = data.get(..taken).unwrap_or_default();
        transfer.hash.update(data);
        transfer.start.push(data);
        transfer.received = transfer
            .received
            .saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        Ok(taken)
    }

    /// Ends an upload whose body has arrived in full.
    pub(super) fn upload_end(
        &mut self,
        backend: &mut dyn Backend,
        upload: &Upload,
    ) -> Result<Reply, Problem> {
        let name = &upload.name;
        let record = self.images.get_mut(name).ok_or_else(|| not_found(name))?;
        if let Content::Partial(transfer) = &record.content {
            if transfer.turn != upload.turn {
                return Err(superseded(name));
            }
            if transfer.received < transfer.total {
                // A piece of a resumable upload: there is more to come.
                let offset = format!("{}", transfer.received);
                return Ok(Reply::empty(204).header("Upload-Offset", offset));
            }
            let (kind, id) = (record.spec.kind, record.id);
            let sha256: [u8; 32] = transfer.hash.clone().finalize().into();
            let bytes = transfer.total;
            let verdict = check(name, kind, transfer, &sha256).and_then(|()| {
                backend
                    .image_commit(id, &sha256)
                    .map_err(|why| no_room(name, &why))
            });
            if let Err(problem) = verdict {
                backend.image_delete(id);
                record.content = Content::Empty;
                return Err(problem);
            }
            record.content = Content::Ready { bytes, sha256 };
            let context = [
                ("sha256", digest::hex(&sha256)),
                ("bytes", format!("{bytes}")),
            ];
            self.event(EventType::Lifecycle, "image.ready", path(name), &context);
        }
        let record = self.image(name)?;
        let reply = Reply::json(200, &self.image_view(name, record));
        Ok(match &record.content {
            Content::Ready { sha256, .. } => reply.header("Repr-Digest", digest::field(sha256)),
            Content::Empty | Content::Partial(_) => reply,
        })
    }
}

fn check(
    name: &str,
    kind: ImageKind,
    transfer: &Transfer,
    sha256: &[u8; 32],
) -> Result<(), Problem> {
    if let Some(expected) = transfer.expected
        && expected != *sha256
    {
        return Err(Problem::new(
            Code::WrongDigest,
            format!(
                "what arrived of image '{name}' has the SHA-256 {}, and {} was announced",
                digest::hex(sha256),
                digest::hex(&expected)
            ),
        )
        .hint("nothing was kept; upload the image again"));
    }
    transfer.start.check(kind).map_err(|why| {
        Problem::new(Code::NotAnImage, format!("image '{name}' {why}"))
            .hint("nothing was kept; upload another file, or define the image with another kind")
    })
}

fn superseded(name: &str) -> Problem {
    Problem::new(
        Code::UploadSuperseded,
        format!("another upload of image '{name}' began after this one"),
    )
}

fn no_room(name: &str, why: &BackendError) -> Problem {
    super::vms::backend_problem(&format!("image '{name}' cannot be stored"), why)
}
