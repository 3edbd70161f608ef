//! Images, in frames that core granted: a guest's kernel is larger than root.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use control::backend::ImageId;
use control::heritage::Extent;
use guest_abi::core_call::Status;

use crate::frames::Frames;

/// An image: room for all of it was granted when it was announced.
#[derive(Debug)]
struct Image {
    frames: Frames,
    /// Bytes announced.
    announced: u64,
    whole: bool,
}

/// Every image.
#[derive(Debug, Default)]
pub(super) struct Store(BTreeMap<ImageId, Image>);

impl Store {
    /// Makes room for an image, in place of what `id` held.
    pub(super) fn begin(&mut self, id: ImageId, announced: u64) -> Result<(), Status> {
        self.0.remove(&id);
        let frames = Frames::with_room(announced)?;
        let image = Image {
            frames,
            announced,
            whole: false,
        };
        self.0.insert(id, image);
        Ok(())
    }

    /// Appends to an image and returns how many bytes were taken, or `None` if there is
    /// none that can still grow.
    pub(super) fn append(&mut self, id: ImageId, chunk: &[u8]) -> Option<usize> {
        let image = self.0.get_mut(&id).filter(|image| !image.whole)?;
        let left = image.announced.saturating_sub(image.frames.len());
        let fits = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        Some(image.frames.append(chunk.get(..fits)?))
    }

    /// Says that an image is whole.
    pub(super) fn commit(&mut self, id: ImageId) -> Option<()> {
        self.0.get_mut(&id)?.whole = true;
        Some(())
    }

    /// Takes over an image that an earlier root stored in `frames`.
    pub(super) fn adopt(&mut self, id: ImageId, frames: Frames) {
        let image = Image {
            announced: frames.len(),
            frames,
            whole: true,
        };
        self.0.insert(id, image);
    }

    /// Returns where a whole image lies.
    pub(super) fn extents(&self, id: ImageId) -> Vec<Extent> {
        let blocks = self.get(id).map(Frames::blocks).into_iter().flatten();
        let mut extents: Vec<Extent> = Vec::new();
        for (pa, order) in blocks {
            let follows = |last: &&mut Extent| {
                let bytes = last.count.saturating_mul(4096 << order);
                last.order == order && last.pa.saturating_add(bytes) == pa
            };
            match extents.last_mut().filter(follows) {
                Some(last) => last.count = last.count.saturating_add(1),
                None => extents.push(Extent {
                    pa,
                    order,
                    count: 1,
                }),
            }
        }
        extents
    }

    /// Drops an image.
    pub(super) fn delete(&mut self, id: ImageId) {
        self.0.remove(&id);
    }

    /// Returns the bytes of a whole image.
    pub(super) fn get(&self, id: ImageId) -> Option<&Frames> {
        let image = self.0.get(&id).filter(|image| image.whole)?;
        Some(&image.frames)
    }
}
