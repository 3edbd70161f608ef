//! Progress bars, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// A bar that counts bytes. It shows itself once there is something to count, and only if
/// standard error is a terminal and the user does not want it quiet.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    wanted: bool,
}

impl Bar {
    /// Creates a bar for `what`.
    pub(crate) fn new(output: Output, what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        Self {
            bar,
            wanted: !output.quiet && !output.json,
        }
    }

    /// Says how many bytes of how many are done.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        if self.wanted && total > 0 {
            self.wanted = false;
            // What was done before (an upload gone on with) does not count as speed.
            self.bar.set_position(done);
            self.bar.reset_eta();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
