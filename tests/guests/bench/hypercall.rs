//! A hypercall that does nothing: SMCCC_VERSION by HVC.

use crate::measure;

pub(crate) fn run() {
    measure::run("hypercall", payload::psci::hvc_bare);
}
