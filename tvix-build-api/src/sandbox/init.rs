//! Entering built-in builders: [`init`], and [`init_before_main`](super::init_before_main).

/// Makes built-in builders possible in this program. Call it first in `main`, before threads are
/// started or arguments are read.
///
/// Nix's built-in builders (`builtin:fetchurl`, `builtin:unpack-channel` and `builtin:buildenv`,
/// feature `builtins`) run in a sandbox of their own, and the program that runs there is this one,
/// started again. In that process `init` does the builder's work and ends the process; in any other
/// it returns at once. If it was never called, building such a derivation fails with
/// [`BuilderError::Unsupported`](crate::BuilderError::Unsupported).
///
/// ```
/// # #[cfg(target_os = "linux")]
/// tvix_build_api::sandbox::init(); // the first line of main
/// ```
///
/// Where `main` is not yours, as in test programs, use
/// [`init_before_main`](super::init_before_main). A library that another program has loaded (a
/// Python extension, say) can do neither: what is started again is that other program.
pub fn init() {
    super::builtin::init();
}

/// Has the program call [`init`](crate::sandbox::init()) before its `main` begins. For programs whose
/// `main` is not yours: test programs, or C programs that link a Rust static library.
///
/// Use it once in the program, outside of any function. It puts an entry into the section
/// `.init_array`, so the program must be one that the system's C library starts (glibc or musl).
///
/// ```
/// tvix_build_api::sandbox::init_before_main!();
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __sandbox_init_before_main {
    () => {
        const _: () = {
            extern "C" fn enter() {
                $crate::sandbox::init();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static ENTRY: extern "C" fn() = enter;
        };
    };
}
