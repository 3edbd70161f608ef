//! The table of images.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use api::limits::IMAGES_MAX;
use api::{Code, EventType, Image, ImageKind, ImageList, ImageSpec, ImageState, Problem, names};

use super::Server;
use super::upload::Transfer;
use crate::backend::{Backend, ImageId};
use crate::digest;
use crate::http::reply::Reply;

/// One image.
#[derive(Debug)]
pub(super) struct ImageRecord {
    pub(super) id: ImageId,
    pub(super) uuid: String,
    pub(super) spec: ImageSpec,
    pub(super) content: Content,
    pub(super) created_at: Option<String>,
    /// The next server will find it.
    pub(super) noted: bool,
}

/// What there is of an image.
#[derive(Debug)]
pub(super) enum Content {
    /// Nothing.
    Empty,
    /// A part.
    Partial(Transfer),
    /// All of it, and it is what it should be.
    Ready { bytes: u64, sha256: [u8; 32] },
}

impl ImageRecord {
    pub(super) const fn state(&self) -> ImageState {
        match self.content {
            Content::Empty => ImageState::Empty,
            Content::Partial(_) => ImageState::Uploading,
            Content::Ready { .. } => ImageState::Ready,
        }
    }

    /// Bytes that have arrived, and bytes that there will be if that is known.
    pub(super) const fn extent(&self) -> (u64, Option<u64>) {
        match &self.content {
            Content::Empty => (0, self.spec.size_bytes),
            Content::Partial(transfer) => (transfer.received, Some(transfer.total)),
            Content::Ready { bytes, .. } => (*bytes, Some(*bytes)),
        }
    }
}

/// Path of an image.
pub(super) fn path(name: &str) -> String {
    format!("/v1/images/{name}")
}

pub(super) fn not_found(name: &str) -> Problem {
    Problem::new(
        Code::ImageNotFound,
        format!("no image is named '{}'", super::vms::shown(name)),
    )
    .hint("GET /v1/images lists the images there are")
}

impl Server {
    pub(super) fn image(&self, name: &str) -> Result<&ImageRecord, Problem> {
        self.images.get(name).ok_or_else(|| not_found(name))
    }

    pub(super) fn image_view(&self, name: &str, record: &ImageRecord) -> Image {
        let (received_bytes, size_bytes) = record.extent();
        Image {
            name: name.into(),
            id: record.uuid.clone(),
            kind: record.spec.kind,
            state: record.state(),
            size_bytes,
            received_bytes,
            sha256: match &record.content {
                Content::Ready { sha256, .. } => Some(digest::hex(sha256)),
                Content::Empty | Content::Partial(_) => None,
            },
            used_by: self.users_of(name, false),
            created_at: record.created_at.clone(),
        }
    }

    /// Names of the VMs that boot an image; only those that hold resources if `active`.
    fn users_of(&self, image: &str, active: bool) -> Vec<String> {
        self.vms
            .iter()
            .filter(|(_, vm)| vm.boots(image) && (!active || vm.state().is_active()))
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(super) fn image_list(&self) -> Reply {
        let images = self
            .images
            .iter()
            .map(|(name, record)| self.image_view(name, record))
            .collect();
        Reply::json(200, &ImageList { images })
    }

    pub(super) fn image_get(&self, name: &str) -> Result<Reply, Problem> {
        let record = self.image(name)?;
        Ok(Reply::json(200, &self.image_view(name, record))
            .header("ETag", format!("\"{}\"", record.uuid)))
    }

    /// Refuses to make something else of a complete image.
    fn check_same(
        &self,
        name: &str,
        record: &ImageRecord,
        spec: &ImageSpec,
    ) -> Result<(), Problem> {
        let (bytes, _) = record.extent();
        let same =
            record.spec.kind == spec.kind && spec.size_bytes.is_none_or(|size| size == bytes);
        if same || record.state() != ImageState::Ready {
            return Ok(());
        }
        Err(Problem::new(
            Code::NameTaken,
            format!(
                "image '{name}' is complete, of kind {} and {bytes} bytes, and something else \
                 was asked for",
                record.spec.kind.name()
            ),
        )
        .hint("delete that image first, or choose another name"))
    }

    /// Defines an image. What is not yet complete may be defined anew.
    pub(super) fn image_put(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
        spec: ImageSpec,
    ) -> Result<Reply, Problem> {
        check_name(name)?;
        if let Some(record) = self.images.get(name) {
            self.check_same(name, record, &spec)?;
        }
        if let Some(record) = self.images.get_mut(name) {
            if record.state() != ImageState::Ready && record.spec != spec {
                // Nothing whole is lost. An upload under way is told when it goes on.
                backend.image_delete(record.id);
                record.spec = spec;
                record.content = Content::Empty;
            }
            return self.image_get(name);
        }
        if self.images.len() >= IMAGES_MAX {
            return Err(Problem::new(
                Code::TableFull,
                format!("{IMAGES_MAX} images are defined, which is as many as there can be"),
            )
            .hint("delete an image that is not needed"));
        }
        let key = self.new_key();
        let record = ImageRecord {
            id: ImageId(key),
            uuid: self.uuid(key),
            spec,
            content: Content::Empty,
            created_at: self.now(),
            noted: false,
        };
        let reply = Reply::json(201, &self.image_view(name, &record))
            .header("Location", path(name))
            .header("ETag", format!("\"{}\"", record.uuid));
        self.images.insert(name.into(), record);
        self.event(EventType::Lifecycle, "image.created", path(name), &[]);
        Ok(reply)
    }

    pub(super) fn image_delete(
        &mut self,
        backend: &mut dyn Backend,
        name: &str,
    ) -> Result<Reply, Problem> {
        let id = self.image(name)?.id;
        let users = self.users_of(name, true);
        if let Some(user) = users.first() {
            return Err(Problem::new(
                Code::ImageInUse,
                format!("VM '{user}' is running and boots image '{name}'"),
            )
            .hint("stop the VM first"));
        }
        backend.image_delete(id);
        self.images.remove(name);
        self.forget(backend, id.0);
        self.event(EventType::Lifecycle, "image.deleted", path(name), &[]);
        Ok(Reply::empty(204))
    }

    /// Returns the image that a VM is to boot, if it is of the right kind.
    pub(super) fn image_for(
        &self,
        name: &str,
        kind: ImageKind,
        pointer: &str,
        problem: Problem,
    ) -> Problem {
        match self.images.get(name) {
            None => problem.field(
                pointer,
                format!("no image is named '{}'", super::vms::shown(name)),
            ),
            Some(record) if record.spec.kind != kind => problem.field(
                pointer,
                format!(
                    "image '{name}' is of kind {}, and {} is expected here",
                    record.spec.kind.name(),
                    kind.name()
                ),
            ),
            Some(_) => problem,
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    if names::is_valid(name) {
        Ok(())
    } else {
        Err(Problem::new(
            Code::Invalid,
            format!(
                "'{}' cannot be a name: a name has {}",
                super::vms::shown(name),
                names::NAME_RULE
            ),
        ))
    }
}
