//! The entry point of built-in builders in the running program.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::run;

/// The name of the executed file, by which a built-in builder is recognised. No other program has
/// it.
pub(super) const NAME: &str = "tvix-builtin-builder-q7v1";

/// Whether [`init`] was called: then this program can be started as a built-in builder.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Runs the built-in builder and ends the process, if this process was started as one.
pub fn init() {
    INITIALISED.store(true, Ordering::Relaxed);
    // SAFETY: this only reads the auxiliary vector.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if name.is_null() {
        return;
    }
    // SAFETY: the kernel puts a C string there that lives as long as the program.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let Some(start) = name.len().checked_sub(NAME.len()) else {
        return;
    };
    if &name[start..] != NAME.as_bytes() {
        return;
    }
    let code = std::panic::catch_unwind(run::run);
    // Skips the exit handlers, because none of the program's own code may run.
    // SAFETY: it ends the process.
    unsafe { libc::_exit(code.unwrap_or(101)) }
}

/// Whether [`init`] was called.
pub(super) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// Whether [`init`] is code of the program, and not of a library that it has loaded: only then does
/// the program become a built-in builder when it is started again.
pub(super) fn is_in_program() -> bool {
    struct Search {
        address: usize,
        found: bool,
    }
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: both pointers are valid for this call, as `dl_iterate_phdr` says, and the second
        // is to the `Search` below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        for index in 0..usize::from(info.dlpi_phnum) {
            // SAFETY: `dlpi_phnum` headers exist.
            let header = unsafe { &*info.dlpi_phdr.add(index) };
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            let inside = search.address.wrapping_sub(start) < header.p_memsz as usize;
            search.found |= header.p_type == libc::PT_LOAD && inside;
        }
        // The program comes first, and only it is examined.
        1
    }
    let mut search = Search {
        address: init as fn() as usize,
        found: false,
    };
    // SAFETY: `visit` receives the `Search` that it expects, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::from_mut(&mut search).cast()) };
    search.found
}

/// The files of the loaded shared libraries, including the dynamic linker. Empty for a static
/// program.
pub(super) fn libraries() -> Vec<PathBuf> {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: as in `is_in_program`, with a list of paths.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<PathBuf>>()) };
        if !info.dlpi_name.is_null() {
            // SAFETY: the name is a C string.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
            // The program itself has no name, and the kernel's vDSO has no path.
            if name.starts_with(b"/") {
                found.push(PathBuf::from(OsStr::from_bytes(name)));
            }
        }
        0
    }
    let mut found: Vec<PathBuf> = Vec::new();
    // SAFETY: `visit` receives the list that it expects, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::from_mut(&mut found).cast()) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_can_become_a_builder() {
        assert!(is_in_program());
        assert!(libraries().iter().all(|library| library.is_file()));
    }
}
