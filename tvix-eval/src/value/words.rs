//! Results in registers.

use std::marker::PhantomData;
use std::mem::{MaybeUninit, transmute};

use super::Value;
use crate::error::Result;

/// The result of an evaluation, as two words.
///
/// Rust returns a `Result<Value>` through memory, but a pair of words in two registers. The few
/// frequently called functions that are not inlined return this type.
#[must_use]
#[expect(dead_code, reason = "they are read as what they were made of")]
pub(crate) struct Words<'h> {
    /// The discriminant of the value, and a 32-bit number for some values.
    kind: MaybeUninit<u64>,
    /// A pointer or a 64-bit number.
    word: MaybeUninit<*const ()>,
    result: PhantomData<Result<Value<'h>>>,
}

const _: () = assert!(size_of::<Result<Value<'_>>>() == 16);
const _: () = assert!(size_of::<Words<'_>>() == 16);

impl<'h> Words<'h> {
    /// Converts a result to words.
    #[inline(always)]
    pub(crate) fn new(result: Result<Value<'h>>) -> Self {
        // SAFETY: the sizes are equal, and words that need not be initialised can hold any bytes.
        unsafe { transmute::<Result<Value<'h>>, Self>(result) }
    }

    /// Converts the words back to the result.
    #[inline(always)]
    pub(crate) fn result(self) -> Result<Value<'h>> {
        // SAFETY: only `new` makes words, from a result of this type, and `self` is consumed, so a
        // boxed error has one owner.
        unsafe { transmute::<Self, Result<Value<'h>>>(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::value::NixPath;

    #[test]
    fn results_survive() {
        let round = |value| Words::new(Ok(value)).result();
        assert!(matches!(round(Value::Null), Ok(Value::Null)));
        assert!(matches!(round(Value::Bool(true)), Ok(Value::Bool(true))));
        assert!(matches!(
            round(Value::Int(i64::MIN)),
            Ok(Value::Int(i64::MIN))
        ));
        assert!(matches!(round(Value::Failed(7)), Ok(Value::Failed(7))));
        let path = NixPath { bytes: b"/a" };
        assert!(matches!(round(Value::Path(&path)), Ok(Value::Path(path)) if path.bytes == b"/a"));
        let error = Error::new(ErrorKind::Other, "lost");
        assert!(Words::new(Err(error)).result().is_err());
    }
}
