//! Hashing a tree as a content address does.

use std::fs::File;
use std::io;
use std::path::Path;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nar::{BUFFER_SIZE, NarError};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::bounds::unless;
use crate::{Interruptible, TreeError, hash_path_while};

/// Hashes the tree or file at `path` as a content address of this method does. It blocks.
///
/// # Errors
///
/// Those of [`dump_path`](crate::dump_path). If the method takes a single file and `path` is something
/// else, [`TreeError::UnsupportedType`].
pub fn hash(
    path: &Path,
    method: ContentAddressMethod,
    algo: HashAlgo,
) -> Result<NixHash, TreeError> {
    hash_until(path, method, algo, &|| false)
}

/// Like [`hash`], until `interrupted`, which is called before each chunk, returns true.
///
/// # Errors
///
/// Those of [`hash`], and [`NarError::Io`] with [`TreeError::Interrupted`].
pub fn hash_until(
    path: &Path,
    method: ContentAddressMethod,
    algo: HashAlgo,
    interrupted: &dyn Fn() -> bool,
) -> Result<NixHash, TreeError> {
    if method == ContentAddressMethod::NixArchive {
        return Ok(hash_path_while(path, algo, || unless(interrupted))?.0);
    }
    let failed = |action, source| TreeError::File {
        action,
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let not_a_file = |kind| TreeError::UnsupportedType {
        path: path.to_owned(),
        kind,
    };
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(not_a_file("symlink")),
        opened => opened.map_err(|error| failed("open", error.into()))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat", error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => {
            return Err(not_a_file("executable file"));
        }
        FileType::RegularFile => {}
        FileType::Directory => return Err(not_a_file("directory")),
        _ => return Err(not_a_file("special file")),
    }
    let mut file = io::BufReader::with_capacity(BUFFER_SIZE, File::from(fd));
    let mut hasher = Interruptible::new(NixHasher::new(algo), interrupted);
    match io::copy(&mut file, &mut hasher) {
        Ok(_) => Ok(hasher.into_inner().finish()),
        Err(error) if interrupted() => Err(NarError::Io(error).into()),
        Err(error) => Err(failed("read", error)),
    }
}
