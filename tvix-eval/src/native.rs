//! Builtins of the embedder.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::heap::Heap;
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{Builtin, Function};
use crate::value::{ContextId, Ref, Value};

/// The function of a [`Native`]. Takes the unevaluated arguments and the position of the call.
pub type NativeFunction =
    dyn for<'i, 'h, 'a> Fn(&'i Interp<'h>, &'a [Ref<'h>], Pos) -> Result<Value<'h>> + Send + Sync;

/// A builtin of the embedder: `builtins.name`, and `__name` in the global scope. Several
/// evaluations may call it concurrently. It must not block for long, because it blocks its
/// evaluation.
#[derive(Clone)]
pub struct Native {
    name: Arc<str>,
    arity: u8,
    function: Arc<NativeFunction>,
}

impl Native {
    /// A builtin that works with values of the language.
    ///
    /// # Panics
    ///
    /// If `arity` is not in 1 to 6.
    pub fn new<F>(name: impl Into<Arc<str>>, arity: u8, function: F) -> Self
    where
        F: for<'i, 'h, 'a> Fn(&'i Interp<'h>, &'a [Ref<'h>], Pos) -> Result<Value<'h>>
            + Send
            + Sync
            + 'static,
    {
        assert!((1..=6).contains(&arity), "a builtin takes 1 to 6 arguments");
        Self {
            name: name.into(),
            arity,
            function: Arc::new(function),
        }
    }

    /// A builtin with one argument, which is evaluated deeply and deserialised from the form of
    /// `toJSON`. The result is converted to a value as by `fromJSON`. An `Err` is the message of an
    /// evaluation error.
    pub fn of<A, R, F>(name: impl Into<Arc<str>>, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        F: Fn(A) -> std::result::Result<R, String> + Send + Sync + 'static,
    {
        Self::new(name, 1, move |interp, args, pos| {
            let failed = |message: String| Error::new(ErrorKind::Other, message).at(pos);
            let (mut text, mut context) = (Vec::new(), ContextId::EMPTY);
            interp.write_json(args[0], pos, true, &mut text, &mut context)?;
            let arg = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
            let result = function(arg).map_err(failed)?;
            let text = serde_json::to_vec(&result).map_err(|error| failed(error.to_string()))?;
            interp.read_json(&text, pos)
        })
    }

    /// The name of the builtin.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn builtin<'h>(&'h self, heap: &'h Heap) -> &'h Builtin<'h> {
        let heap = heap.permanent();
        let function = &*self.function;
        // The heap runs no destructors, so its contents must only borrow.
        let function: &'h Function<'h> =
            heap.alloc(move |interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos| {
                // It may do more than return a value.
                interp.reach_order()?;
                let _runs = interp.in_foreign();
                function(interp, args, pos)
            });
        heap.alloc(Builtin {
            name: &self.name,
            arity: self.arity,
            quiet: false,
            strict: 0,
            function,
        })
    }
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Native")
            .field("name", &self.name)
            .field("arity", &self.arity)
            .finish_non_exhaustive()
    }
}
