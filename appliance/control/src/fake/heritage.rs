//! What one server leaves to the next in a machine made of values.

use alloc::vec::Vec;

use super::{FakeBackend, FakeImage, FakeRun};
use crate::backend::{ImageId, RunId, RunPlan, RunState};
use crate::heritage::{Extent, FoundVm, Heritage, Restart};

impl Heritage for FakeBackend {
    fn restart(&mut self, how: Restart) {
        self.restarted = Some(how);
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn end_of_last(&self) -> &'static str {
        "asked"
    }

    fn note_write(&mut self, number: usize, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            self.notes.remove(&number);
        } else {
            self.notes.insert(number, bytes.into());
        }
        true
    }

    fn note_read(&mut self, number: usize) -> Option<Vec<u8>> {
        self.notes.get(&number).cloned()
    }

    fn image_extents(&self, id: ImageId) -> Vec<Extent> {
        let place = |image: &FakeImage| Extent {
            pa: image.pa,
            order: 0,
            count: 1,
        };
        self.images.get(&id).map(place).into_iter().collect()
    }

    fn image_adopt(&mut self, id: ImageId, bytes: u64, extents: &[Extent]) -> bool {
        let [extent] = extents else { return false };
        let there = self.left_images.get(&extent.pa);
        if there.is_none_or(|image| image.total != bytes || image.sha256.is_none()) {
            return false;
        }
        let image = self.left_images.remove(&extent.pa);
        image.is_some_and(|image| self.images.insert(id, image).is_none())
    }

    fn vm_handle(&self, id: RunId) -> Option<u64> {
        Some(self.runs.get(&id)?.handle)
    }

    fn vms_found(&mut self) -> Vec<FoundVm> {
        let found = |(handle, run): (&u64, &FakeRun)| FoundVm {
            handle: *handle,
            name: run.plan.name.clone(),
            cpus: run.plan.cpus,
            memory_bytes: run.plan.memory_bytes,
            built: matches!(run.state, RunState::Loading { .. }),
        };
        self.left_runs.iter().map(found).collect()
    }

    fn vm_adopt(&mut self, id: RunId, handle: u64, plan: &RunPlan) -> bool {
        let Some(mut run) = self.left_runs.remove(&handle) else {
            return false;
        };
        run.plan = plan.clone();
        self.runs.insert(id, run);
        true
    }

    fn console_taken(&self, id: RunId) -> u32 {
        self.runs.get(&id).map_or(0, |run| run.taken.0)
    }

    fn console_backlog(&mut self, id: RunId) -> (u32, Vec<u8>) {
        let run = self.runs.get(&id);
        run.map(|run| (run.taken.0, run.taken.1.iter().copied().collect()))
            .unwrap_or_default()
    }

    fn adopted(&mut self) {
        self.left_images.clear();
    }
}
