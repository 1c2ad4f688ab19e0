//! Handles: values that code of embedders keeps where no collection looks for them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::value::Ref;

/// The cells that handles keep alive.
#[derive(Default)]
pub(super) struct Handles<'h> {
    pub(super) cells: RefCell<Vec<Option<Ref<'h>>>>,
    free: RefCell<Vec<usize>>,
}

/// A handle of a cell. It keeps the value of the cell alive, wherever the handle is: in a vector,
/// in a closure, in a map.
pub struct Held<'h> {
    handles: Rc<Handles<'h>>,
    index: usize,
    cell: Ref<'h>,
}

impl<'h> Held<'h> {
    /// The cell.
    #[inline]
    pub fn cell(&self) -> Ref<'h> {
        self.cell
    }
}

impl Clone for Held<'_> {
    fn clone(&self) -> Self {
        self.handles.hold(self.cell)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.handles.cells.borrow_mut()[self.index] = None;
        self.handles.free.borrow_mut().push(self.index);
    }
}

impl std::fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.cell.get()).finish()
    }
}

impl<'h> Handles<'h> {
    pub(super) fn hold(self: &Rc<Self>, cell: Ref<'h>) -> Held<'h> {
        let mut cells = self.cells.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => {
                cells[index] = Some(cell);
                index
            }
            None => {
                cells.push(Some(cell));
                cells.len() - 1
            }
        };
        Held {
            handles: self.clone(),
            index,
            cell,
        }
    }
}
