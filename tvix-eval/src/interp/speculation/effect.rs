//! What evaluations produce besides values.

use tvix_eval_api::Diagnostic;

/// Something that an evaluation has produced besides its value.
pub(crate) enum Effect {
    /// The evaluation has used the uncommitted value of this number.
    Used(u32),
    /// A message for the user.
    Message(Box<Diagnostic>),
}
