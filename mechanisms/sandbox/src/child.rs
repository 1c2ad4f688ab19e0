//! What runs between `clone` and `execve`, in the memory of the embedding program.
//!
//! The child shares the parent's address space (copying the page tables of a large program
//! would cost more than the whole sandbox) but has its own stack and its own copy of the
//! descriptor table. Other threads of the program may hold any lock at this moment, so nothing
//! here allocates, locks or panics: it walks over a list of prepared steps.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_ulong, c_void};

use super::plan::{Plan, Step};
use super::spec::Access;
use super::sys::{self, Errno};

/// The user mapping is not written yet.
pub(super) const IDENTITY_PENDING: u32 = 0;
/// The user mapping is written.
pub(super) const IDENTITY_READY: u32 = 1;
/// The parent failed to write the user mapping, and will say so itself.
pub(super) const IDENTITY_FAILED: u32 = 2;

/// The step number under which a failed `execve` is reported.
pub(super) const EXEC: u32 = u32::MAX;

/// What parent and child share.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    /// `/dev/null`.
    pub(super) stdin: c_int,
    /// The write end of the log.
    pub(super) log: c_int,
    /// The write end of the pipe that carries a failed step's number and `errno`.
    pub(super) errors: c_int,
    pub(super) identity: AtomicU32,
}

/// A failed step as it goes through the error pipe.
pub(super) type Report = [u8; 8];

fn encode(step: u32, errno: Errno) -> Report {
    let mut report = [0; 8];
    let (first, second) = report.split_at_mut(4);
    first.copy_from_slice(&step.to_ne_bytes());
    second.copy_from_slice(&errno.to_ne_bytes());
    report
}

/// The step and `errno` in a report.
pub(super) fn decode(report: Report) -> (u32, Errno) {
    let [a, b, c, d, e, f, g, h] = report;
    (
        u32::from_ne_bytes([a, b, c, d]),
        Errno::from_ne_bytes([e, f, g, h]),
    )
}

/// The entry point of the child.
pub(super) extern "C" fn enter(context: *mut c_void) -> c_int {
    // SAFETY: the spawner passes a `Context` and keeps it in place until this process has
    // either executed its program or exited.
    let context = unsafe { &*context.cast::<Context<'_>>() };
    let mut number = 0;
    for step in &context.plan.steps {
        if let Err(errno) = perform(step, context) {
            sys::write(context.errors, &encode(number, errno));
            sys::exit(127);
        }
        number = number.wrapping_add(1);
    }
    let plan = context.plan;
    // SAFETY: both arrays are null-terminated lists of C strings.
    let errno = unsafe { sys::execve(&plan.program, plan.argv.as_ptr(), plan.envp.as_ptr()) };
    sys::write(context.errors, &encode(EXEC, errno));
    sys::exit(127)
}

fn perform(step: &Step, context: &Context<'_>) -> Result<(), Errno> {
    match step {
        Step::PrivateMounts => sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
        Step::EnterRoot { root } => {
            sys::mount(Some(root), root, None, libc::MS_BIND, None)?;
            restrict(
                root,
                false,
                libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
            )?;
            sys::chdir(root)
        }
        Step::Bind {
            source,
            target,
            access,
        } => {
            bind(source, target)?;
            let read_only = match access {
                Access::ReadOnly => libc::MOUNT_ATTR_RDONLY,
                Access::ReadWrite => 0,
            };
            restrict(target, true, read_only | libc::MOUNT_ATTR_NODEV)
        }
        Step::Device { source, target } => {
            sys::mount(Some(source), target, None, libc::MS_BIND, None)?;
            restrict(target, false, libc::MOUNT_ATTR_NOEXEC)
        }
        Step::AwaitIdentity => await_identity(&context.identity),
        Step::SetIds { uid, gid } => sys::set_ids(*uid, *gid),
        Step::Filesystem {
            kind,
            target,
            flags,
            options,
        } => sys::mount(Some(kind), target, Some(kind), *flags, options.as_deref()),
        Step::NoCgroupNamespaces { setting } => match sys::write_setting(setting, b"0") {
            // A kernel without cgroup namespaces.
            Err(libc::ENOENT) => Ok(()),
            result => result,
        },
        Step::PivotRoot => sys::pivot_here(),
        Step::Hostname => sys::set_hostname(c"localhost"),
        Step::LoopbackUp => sys::loopback_up(),
        Step::NewSession => sys::new_session(),
        Step::WorkingDirectory { path } => sys::chdir(path),
        Step::Personality { persona } => sys::personality(*persona),
        Step::Attributes => {
            sys::umask(0o022);
            sys::disable_core_dumps()?;
            sys::reset_signals()
        }
        Step::Limit { resource, value } => sys::set_limit(*resource, *value),
        Step::DieWithParent => {
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong)?;
            // It may have died before.
            if sys::reader_is_gone(context.errors) {
                sys::exit(127);
            }
            Ok(())
        }
        Step::Descriptors => {
            sys::dup_onto(context.stdin, 0)?;
            sys::dup_onto(context.log, 1)?;
            sys::dup_onto(context.log, 2)?;
            // All others but the error pipe, which `execve` closes.
            sys::close_range(3, context.errors.saturating_sub(1))?;
            sys::close_range(context.errors.saturating_add(1), c_int::MAX)
        }
        Step::DropCapabilities => sys::drop_capabilities(),
    }
}

fn bind(source: &CStr, target: &CStr) -> Result<(), Errno> {
    sys::mount(
        Some(source),
        target,
        None,
        libc::MS_BIND | libc::MS_REC,
        None,
    )
}

fn restrict(target: &CStr, recursive: bool, attributes: u64) -> Result<(), Errno> {
    sys::mount_setattr(target, recursive, attributes | libc::MOUNT_ATTR_NOSUID, 0)
}

fn await_identity(identity: &AtomicU32) -> Result<(), Errno> {
    loop {
        match identity.load(Ordering::Acquire) {
            IDENTITY_READY => return Ok(()),
            IDENTITY_FAILED => sys::exit(127),
            pending => sys::futex_wait(identity, pending),
        }
    }
}
