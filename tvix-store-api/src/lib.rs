//! The Store trait of the Tvix build flow and its back ends.
