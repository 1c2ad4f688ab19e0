//! The coordinator of the Tvix build flow: a state machine without I/O and the driver that runs it on the three traits.
