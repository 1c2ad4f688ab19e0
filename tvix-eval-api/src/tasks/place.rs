//! Places of tasks.

use std::fmt;
use std::sync::Arc;

use crate::{AttrPath, RootOrder};

/// The place of a value among the values that are searched for roots: its attribute path, from a
/// requested one on.
#[derive(Debug)]
pub struct TaskPlace {
    name: Box<str>,
    number: u32,
    reached: Reached,
    parent: Option<Arc<TaskPlace>>,
}

/// How the search came to a value. By the rules of `nix-build`, this decides what is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reached {
    /// It is at a requested attribute path; the empty path is the complete source.
    Requested,
    /// It is an attribute of a set that was searched. A set is searched only with
    /// `recurseForDerivations`, and values of other types are ignored.
    Attribute,
    /// It is an element of a list that was searched, or an attribute that is searched like one.
    Element,
}

impl TaskPlace {
    /// A requested attribute path, and its number among all that are requested.
    pub(super) fn requested(number: u32, name: &str) -> Self {
        Self {
            name: name.into(),
            number,
            reached: Reached::Requested,
            parent: None,
        }
    }

    pub(super) fn member(parent: Arc<Self>, reached: Reached, number: u32, name: Box<str>) -> Self {
        Self {
            name,
            number,
            reached,
            parent: Some(parent),
        }
    }

    /// The requested attribute path as text, or the name of the attribute, or the number of the
    /// list element.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number among the members of the set or list around it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How the search came here.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// The place of the set or list around this value; `None` for a requested attribute path.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// The places from the requested attribute path to this one.
    pub fn trail(&self) -> Vec<&Self> {
        let mut places = vec![self];
        let mut place = self;
        while let Some(parent) = &place.parent {
            places.push(parent);
            place = parent;
        }
        places.reverse();
        places
    }

    /// The place among all roots.
    pub fn order(&self) -> RootOrder {
        RootOrder(self.trail().into_iter().map(|place| place.number).collect())
    }

    /// The attribute path, as [`AttrPath::parse`] reads it.
    pub fn attr_path(&self) -> String {
        let mut text = String::new();
        for place in self.trail() {
            match (place.reached, place.name.parse()) {
                (Reached::Requested, _) => text.push_str(&place.name),
                (Reached::Element, Ok(number)) => AttrPath::push_element(&mut text, number),
                _ => AttrPath::push_attribute(&mut text, &place.name),
            }
        }
        text
    }
}

impl fmt::Display for TaskPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attr_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_paths_and_orders() {
        let requested = Arc::new(TaskPlace::requested(1, "jobs"));
        let set = TaskPlace::member(requested, Reached::Attribute, 4, "gcc-4.9".into());
        let job = TaskPlace::member(Arc::new(set), Reached::Element, 0, "0".into());
        assert_eq!(job.attr_path(), "jobs.\"gcc-4.9\".0");
        assert_eq!(job.order(), RootOrder(vec![1, 4, 0]));
        let names: Vec<_> = job.trail().into_iter().map(TaskPlace::name).collect();
        assert_eq!(names, ["jobs", "gcc-4.9", "0"]);
        let whole = Arc::new(TaskPlace::requested(0, ""));
        let member = TaskPlace::member(whole, Reached::Attribute, 7, "hello".into());
        assert_eq!(member.to_string(), "hello");
    }
}
