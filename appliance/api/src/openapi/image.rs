//! `/v1/images`.

use alloc::vec;
use alloc::vec::Vec;

use schemars::SchemaGenerator;

use super::{Content, DIGEST, Entry, entry, reference};
use crate::{Code, Image, ImageList, ImageSpec};

pub(super) fn entries(schemas: &mut SchemaGenerator) -> Vec<Entry> {
    use Content::{Bytes, Json, None};
    let image = reference::<Image>(schemas);
    let images = Json(reference::<ImageList>(schemas));
    let refusals: &[Code] = &[
        Code::ImageNotFound,
        Code::UploadOffset,
        Code::ImageComplete,
        Code::UploadSuperseded,
        Code::LengthRequired,
        Code::Invalid,
        Code::WrongDigest,
        Code::NotAnImage,
        Code::NoMemory,
    ];
    vec![
        entry(
            "/v1/images",
            "GET",
            "list_images",
            "Every image",
            [(200, images)].into(),
        ),
        Entry {
            refusals: &[Code::ImageNotFound],
            ..entry(
                "/v1/images/{name}",
                "GET",
                "get_image",
                "An image",
                [(200, Json(image.clone()))].into(),
            )
        },
        Entry {
            takes: Json(reference::<ImageSpec>(schemas)),
            refusals: &[
                Code::BadJson,
                Code::NameTaken,
                Code::UnsupportedMediaType,
                Code::Invalid,
                Code::TableFull,
            ],
            ..entry(
                "/v1/images/{name}",
                "PUT",
                "put_image",
                "Defines an image; its data comes after",
                [(200, Json(image.clone())), (201, Json(image.clone()))].into(),
            )
        },
        Entry {
            refusals: &[Code::ImageNotFound, Code::ImageInUse],
            ..entry(
                "/v1/images/{name}",
                "DELETE",
                "delete_image",
                "Deletes an image that no running VM boots",
                [(204, None)].into(),
            )
        },
        Entry {
            refusals: &[Code::ImageNotFound],
            ..entry(
                "/v1/images/{name}/data",
                "HEAD",
                "upload_offset",
                "Where an upload goes on: Upload-Offset, Upload-Length",
                [(200, None)].into(),
            )
        },
        Entry {
            parameters: &[DIGEST],
            takes: Bytes("application/octet-stream"),
            refusals,
            ..entry(
                "/v1/images/{name}/data",
                "PUT",
                "upload_image",
                "Uploads an image from its beginning; Content-Length is required",
                [(200, Json(image.clone()))].into(),
            )
        },
        Entry {
            parameters: &[
                DIGEST,
                (
                    "Upload-Offset",
                    "Where in the image this piece begins: as many bytes as have arrived",
                ),
            ],
            takes: Bytes("application/octet-stream"),
            refusals,
            ..entry(
                "/v1/images/{name}/data",
                "PATCH",
                "resume_upload",
                "Goes on with an upload",
                [(200, Json(image)), (204, None)].into(),
            )
        },
    ]
}
