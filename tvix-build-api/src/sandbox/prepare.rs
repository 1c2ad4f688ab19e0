//! Turns a translated derivation into a process that can be started.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::BString;
use nix_compat::store_path::StoreDir;

use super::builtin::Builtin;
use super::trouble::{Blame, Trouble};
use super::{SandboxOptions, SandboxPath};
use crate::BuildLimits;
use crate::translate::{BUILD_DIR, Translation, etc};
use tvix_sandbox::{
    Access, Engine, EngineError, Isolation, Limits, Mount, Network, SANDBOX_GID, SANDBOX_UID,
    SandboxSpec, Scratch,
};

/// A process that can be started.
pub(super) struct Prepared {
    pub spec: SandboxSpec,
    pub scratch: Arc<Scratch>,
}

/// The surroundings of a build.
pub(super) struct Surroundings<'a> {
    pub dir: &'a StoreDir,
    /// The files of the inputs.
    pub inputs: &'a [PathBuf],
    pub options: &'a SandboxOptions,
    /// Whether the build has access to [`KVM`].
    pub kvm: bool,
}

/// The device for hardware virtualisation.
pub(super) const KVM: &str = "/dev/kvm";

/// Creates the directories and files of a build and describes its sandbox. Blocks.
pub(super) fn sandboxed(
    engine: &Engine,
    blame: &Blame,
    around: &Surroundings<'_>,
    translation: &Translation,
    limits: &BuildLimits,
) -> Result<Prepared, Trouble> {
    let dir = around.dir;
    let builtin = Builtin::of(translation, &around.options.fetch_files());
    let builtin = builtin.map_err(|message| blame.unsupported(message))?;
    let mut inputs = Cow::Borrowed(around.inputs);
    if let Some(builtin) = &builtin {
        let more = builtin.store_paths(dir.as_path());
        let more = more.into_iter().filter(|path| {
            !around
                .inputs
                .iter()
                .any(|input| input.file_name() == path.file_name())
        });
        inputs.to_mut().extend(more);
        inputs.to_mut().dedup();
    }
    let mut scratch = engine.scratch().map_err(|error| blame.engine(error))?;
    let mut spec = spec(translation, limits, around.options);
    if around.kvm {
        spec.mounts.push(Mount::Device { path: KVM.into() });
    }
    let (paths, network) = (&around.options.sandbox_paths, translation.network);
    surround(&mut spec, &mut scratch, dir, &inputs, paths, network)
        .map_err(|error| blame.engine(error))?;
    if let Some(builtin) = builtin {
        let started = builtin.start(&mut spec, &scratch, dir.as_path());
        started.map_err(|error| blame.io("prepare a built-in builder", error))?;
    }
    write_files(&scratch, translation)
        .map_err(|error| blame.io("write the files of a build directory", error))?;
    Ok(Prepared {
        spec,
        scratch: Arc::new(scratch),
    })
}

/// Prepares the resources that the first build of an engine would have to wait for, if it is of the
/// most common kind. Blocks.
///
/// # Errors
///
/// Every build would fail with the same error.
pub(super) fn ahead(
    engine: &Engine,
    dir: &StoreDir,
    sandbox_paths: &[SandboxPath],
) -> Result<(), EngineError> {
    let mut scratch = engine.scratch()?;
    let mut spec = SandboxSpec::new("/bin/sh");
    surround(&mut spec, &mut scratch, dir, &[], sandbox_paths, false)?;
    engine.make_ready(&spec)?;
    scratch.put_back();
    Ok(())
}

/// The surroundings of the process in a sandbox, for the derivation's program and for built-in
/// builders.
fn surround(
    spec: &mut SandboxSpec,
    scratch: &mut Scratch,
    dir: &StoreDir,
    inputs: &[PathBuf],
    sandbox_paths: &[SandboxPath],
    network: bool,
) -> Result<(), EngineError> {
    spec.cwd = BUILD_DIR.into();
    spec.host_ids = scratch.host_ids();
    spec.counted = scratch.directories();
    spec.mounts
        .extend(sandbox_paths.iter().map(SandboxPath::mount));
    spec.mounts.extend(etc_files(network));
    spec.mounts.extend(scratch.mounts(dir.as_path(), inputs)?);
    if network {
        spec.network = Network::Host;
    }
    Ok(())
}

/// As [`sandboxed`], for a build without a sandbox. Blocks.
pub(super) fn unconfined(
    blame: &Blame,
    scratch: Scratch,
    around: &Surroundings<'_>,
    translation: &Translation,
    limits: &BuildLimits,
) -> Result<Prepared, Trouble> {
    let mut spec = spec(translation, limits, around.options);
    spec.isolation = Isolation::None;
    spec.counted = scratch.directories();
    spec.cwd = scratch.build_dir();
    let builtin = Builtin::of(translation, &around.options.fetch_files());
    if let Some(builtin) = builtin.map_err(|message| blame.unsupported(message))? {
        let started = builtin.start(&mut spec, &scratch, around.dir.as_path());
        started.map_err(|error| blame.io("prepare a built-in builder", error))?;
    }
    write_files(&scratch, translation)
        .map_err(|error| blame.io("write the files of a build directory", error))?;
    Ok(Prepared {
        spec,
        scratch: Arc::new(scratch),
    })
}

fn spec(translation: &Translation, limits: &BuildLimits, options: &SandboxOptions) -> SandboxSpec {
    let text = |text: &BString| OsString::from_vec(text.to_vec());
    let mut spec = SandboxSpec::new(text(&translation.program));
    spec.args = translation.args.iter().map(text).collect();
    let variables = translation.env.iter();
    spec.env = variables
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    spec.linux32 = translation.linux32 && cfg!(target_pointer_width = "64");
    spec.grouped = options.count_memory;
    spec.limits = Limits::default()
        .with_wall_time(limits.wall_time)
        .with_silence(limits.silence)
        .with_log_bytes(limits.log_bytes)
        .with_processes(options.max_processes)
        .with_memory(options.max_memory)
        .with_disk(options.max_disk);
    spec
}

fn etc_files(network: bool) -> Vec<Mount> {
    let mut files = vec![
        Mount::file("/etc/passwd", etc::passwd(SANDBOX_UID, SANDBOX_GID)),
        Mount::file("/etc/group", etc::group(SANDBOX_GID)),
    ];
    if !network {
        files.push(Mount::file("/etc/hosts", etc::HOSTS));
        return files;
    }
    files.push(Mount::file("/etc/nsswitch.conf", etc::NSSWITCH));
    files.extend(etc::HOST_FILES.into_iter().filter_map(|file| {
        // Often a symlink to a file that builds do not see.
        let source = Path::new(file).canonicalize().ok()?;
        Some(Mount::bind(source, file, Access::ReadOnly))
    }));
    files
}

fn write_files(scratch: &Scratch, translation: &Translation) -> io::Result<()> {
    for file in &translation.files {
        let path = scratch.build_dir().join(&file.name);
        // No process runs in the directory yet, so no file can exist there.
        let mut created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        created.write_all(&file.contents)?;
        scratch.give_to_builder(&path)?;
    }
    Ok(())
}
