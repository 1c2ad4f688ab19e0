//! The sort of `builtins.sort`.

use crate::error::Result;

/// A stable sort with a fallible comparison.
pub(super) fn merge_sort<T: Copy>(
    items: &mut [T],
    less: &impl Fn(T, T) -> Result<bool>,
) -> Result<()> {
    const SHORT: usize = 8;
    if items.len() <= SHORT {
        for end in 1..items.len() {
            let mut at = end;
            while at > 0 && less(items[at], items[at - 1])? {
                items.swap(at, at - 1);
                at -= 1;
            }
        }
        return Ok(());
    }
    let middle = items.len() / 2;
    merge_sort(&mut items[..middle], less)?;
    merge_sort(&mut items[middle..], less)?;
    let left = items[..middle].to_vec();
    let (mut i, mut j, mut out) = (0, middle, 0);
    while i < left.len() && j < items.len() {
        if less(items[j], left[i])? {
            items[out] = items[j];
            j += 1;
        } else {
            items[out] = left[i];
            i += 1;
        }
        out += 1;
    }
    items[out..out + left.len() - i].copy_from_slice(&left[i..]);
    Ok(())
}
