//! Limits of names, targets, depth and sizes.

/// Maximum length of an entry's name in bytes (`NAME_MAX` on Linux).
pub const MAX_NAME_LEN: usize = 255;
/// Maximum length of a symlink target in bytes (`PATH_MAX` on Linux, without its NUL).
pub const MAX_TARGET_LEN: usize = 4095;
/// Maximum number of open directories, and so of components of a path.
///
/// The format itself has no such limit. Readers that recurse or that open a file descriptor per
/// level need one, and must reject archives that they cannot unpack.
pub const MAX_DEPTH: usize = 64;
/// Maximum size of a file in bytes: the largest signed 64-bit file offset.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;
