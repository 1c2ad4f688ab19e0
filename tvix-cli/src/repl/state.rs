//! The state that lines are evaluated with, and that completion reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tvix_eval::interactive::Scope;
use tvix_eval::interp::Interp;

/// The state that lines are evaluated with.
pub struct State<'i, 'h> {
    pub interp: &'i Interp<'h>,
    pub scope: Scope<'h>,
    /// Names for completion.
    pub names: BTreeSet<String>,
    /// The directory that relative paths are relative to.
    pub base: Vec<u8>,
    /// Ends the current evaluation.
    pub interrupted: Arc<AtomicBool>,
}

impl<'i, 'h> State<'i, 'h> {
    pub fn new(interp: &'i Interp<'h>, interrupted: Arc<AtomicBool>) -> Self {
        let base = std::env::current_dir().unwrap_or_else(|_| "/".into());
        Self {
            interp,
            scope: interp.global_scope(),
            names: interp.builtin_names().into_iter().collect(),
            base: base.into_os_string().into_encoded_bytes(),
            interrupted,
        }
    }
}
