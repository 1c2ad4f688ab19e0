//! From a specification to a list of steps that the child only has to carry out.
//!
//! Everything that allocates, looks at the host or may be wrong happens here, before `clone`.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libc::{c_char, c_int};

use super::error::EngineError;
use super::probe::{self, Privileges};
use super::spec::{
    Access, HostIds, Isolation, Mount, Network, SANDBOX_GID, SANDBOX_UID, SandboxSpec,
};
use super::template::{DEVICES, Layout, Node, Templates, relative_target};

/// One thing the child does on its way to `execve`. Targets are relative to the new root.
#[derive(Debug)]
pub(super) enum Step {
    PrivateMounts,
    EnterRoot {
        root: CString,
    },
    Bind {
        source: CString,
        target: CString,
        access: Access,
    },
    Device {
        source: CString,
        target: CString,
    },
    AwaitIdentity,
    SetIds {
        uid: u32,
        gid: u32,
    },
    Filesystem {
        kind: CString,
        target: CString,
        flags: libc::c_ulong,
        options: Option<CString>,
    },
    /// Sets the limit of cgroup namespaces in the sandbox's user namespace, and in all below it, to
    /// none. Only the owner of a cgroup namespace may mount control groups, and those that
    /// the caller may change are the builder's to change too: `cgroup.kill` among them.
    NoCgroupNamespaces {
        setting: CString,
    },
    PivotRoot,
    Hostname,
    LoopbackUp,
    NewSession,
    WorkingDirectory {
        path: CString,
    },
    Personality {
        persona: libc::c_ulong,
    },
    Attributes,
    Limit {
        resource: c_int,
        value: u64,
    },
    DieWithParent,
    Descriptors,
    DropCapabilities,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = |text: &CString| text.to_string_lossy().into_owned();
        match self {
            Step::PrivateMounts => f.write_str("making the mounts private"),
            Step::EnterRoot { root } => write!(f, "entering the sandbox root {}", path(root)),
            Step::Bind { source, target, .. } | Step::Device { source, target } => {
                write!(f, "mounting {} at /{}", path(source), path(target))
            }
            Step::AwaitIdentity => f.write_str("waiting for the user mapping"),
            Step::SetIds { uid, gid } => write!(f, "becoming user {uid}, group {gid}"),
            Step::Filesystem { kind, target, .. } => {
                write!(f, "mounting a new {} at /{}", path(kind), path(target))
            }
            Step::NoCgroupNamespaces { .. } => f.write_str("disabling cgroup namespaces"),
            Step::PivotRoot => f.write_str("leaving the host's file system"),
            Step::Hostname => f.write_str("setting the host name"),
            Step::LoopbackUp => f.write_str("bringing the loopback interface up"),
            Step::NewSession => f.write_str("starting a session"),
            Step::WorkingDirectory { path: cwd } => write!(f, "changing into {}", path(cwd)),
            Step::Personality { .. } => f.write_str("setting the personality"),
            Step::Attributes => f.write_str("resetting signals and limits"),
            Step::Limit { resource, value } => write!(f, "limiting resource {resource} to {value}"),
            Step::DieWithParent => f.write_str("tying the process to its parent"),
            Step::Descriptors => f.write_str("arranging file descriptors"),
            Step::DropCapabilities => f.write_str("dropping capabilities"),
        }
    }
}

/// How the users of a new user namespace map to the host's.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdMap {
    pub(super) inside: HostIds,
    pub(super) outside: HostIds,
}

/// The network namespace of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetPlan {
    /// That of the host, for processes without sandbox.
    Host,
    /// One that the spawner made and entered before `clone`.
    FromPool,
    /// One made by `clone` itself.
    Fresh,
}

/// An argument list in the form of `execve`.
#[derive(Debug)]
pub(super) struct CStringArray {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to heap buffers that the strings own and that nothing changes; moving
// the array to another thread moves neither.
unsafe impl Send for CStringArray {}

impl CStringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        CStringArray {
            pointers,
            _strings: strings,
        }
    }

    /// Pointer to the null-terminated array.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Everything that a spawner needs, prepared in advance.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: CString,
    pub(super) argv: CStringArray,
    pub(super) envp: CStringArray,
    pub(super) steps: Vec<Step>,
    /// Whether it is a sandbox, and not a plain process.
    pub(super) sandboxed: bool,
    /// Namespaces made by `clone`.
    pub(super) namespaces: c_int,
    pub(super) id_map: Option<IdMap>,
    pub(super) network: NetPlan,
    /// Whether the spawner with sockets of the host has to start the process.
    pub(super) host_sockets: bool,
    /// Whether it gets a control group.
    pub(super) grouped: bool,
    /// The most memory of all processes together, if control groups can be made.
    pub(super) memory: Option<u64>,
    /// The host user that owns the log, if that is not the caller.
    pub(super) log_owner: Option<HostIds>,
}

const SANDBOX_NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// `PER_LINUX32` of `<linux/personality.h>`.
const PER_LINUX32: libc::c_ulong = 0x0008;

impl Plan {
    pub(super) fn new(
        spec: &SandboxSpec,
        templates: &Templates,
        privileges: Privileges,
    ) -> Result<Self, EngineError> {
        let env = spec.env.iter().map(|(name, value)| {
            let mut entry = name.as_bytes().to_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            c_string(OsStr::from_bytes(&entry))
        });
        let mut plan = Plan {
            program: c_string(spec.program.as_os_str())?,
            argv: CStringArray::new(
                spec.args
                    .iter()
                    .map(|arg| c_string(arg))
                    .collect::<Result<_, _>>()?,
            ),
            envp: CStringArray::new(env.collect::<Result<_, _>>()?),
            // Before anything that takes time: the child has copies of all the program's
            // descriptors, and a file that one of them can write to cannot be executed. A parent that
            // is killed meanwhile leaves nobody waiting for him.
            steps: vec![Step::Descriptors, Step::DieWithParent],
            sandboxed: spec.isolation == Isolation::Sandbox,
            namespaces: 0,
            id_map: None,
            network: NetPlan::Host,
            host_sockets: false,
            grouped: privileges.groups && (spec.grouped || spec.limits.memory.is_some()),
            memory: spec.limits.memory.filter(|_| privileges.groups),
            log_owner: spec.host_ids.filter(|_| privileges.root),
        };
        match spec.isolation {
            Isolation::Sandbox => plan.sandbox(spec, templates, privileges)?,
            Isolation::None => plan.process_tree(spec, privileges),
        }
        plan.finish(spec)?;
        Ok(plan)
    }

    fn sandbox(
        &mut self,
        spec: &SandboxSpec,
        templates: &Templates,
        privileges: Privileges,
    ) -> Result<(), EngineError> {
        if privileges.obstacle.is_some() {
            probe::sandbox(privileges.obstacle)?;
        }
        let outside = match spec.host_ids {
            Some(ids) if privileges.root || ids == privileges.caller => ids,
            Some(_) => {
                return Err(EngineError::InvalidSpec(
                    "only root can choose the host's user".into(),
                ));
            }
            // Root's files on the host, and /proc/sys, would be the builder's own.
            None if privileges.root => {
                return Err(EngineError::InvalidSpec(
                    "a sandbox started by root needs an unprivileged host user".into(),
                ));
            }
            None => privileges.caller,
        };
        let inside = HostIds {
            uid: SANDBOX_UID,
            gid: SANDBOX_GID,
        };
        self.id_map = Some(IdMap { inside, outside });
        self.namespaces = SANDBOX_NAMESPACES;
        self.host_sockets = spec.network == Network::Host;
        self.network = if privileges.root {
            NetPlan::FromPool
        } else {
            self.namespaces |= libc::CLONE_NEWNET;
            NetPlan::Fresh
        };

        let mounts = MountPlan::new(&spec.mounts, spec.limits.memory)?;
        let root = templates.root(mounts.layout)?;
        self.steps.extend([
            Step::PrivateMounts,
            Step::EnterRoot {
                root: c_string(root.as_os_str())?,
            },
        ]);
        // While the child still has the caller's user it can reach what only the caller can.
        self.steps.extend(mounts.binds);
        self.steps.push(Step::AwaitIdentity);
        self.steps.push(Step::SetIds {
            uid: inside.uid,
            gid: inside.gid,
        });
        // New file systems belong to whoever mounts them, so that has to be the builder.
        self.steps.extend(mounts.filesystems);
        // Its own `/proc` can be written to even where the host's is read-only, as in containers.
        let proc = match spec.mounts.contains(&Mount::Proc) {
            true => "proc",
            false => "/proc",
        };
        self.steps.push(Step::NoCgroupNamespaces {
            setting: c_string(OsStr::new(&format!(
                "{proc}/sys/user/max_cgroup_namespaces"
            )))?,
        });
        self.steps.push(Step::PivotRoot);
        self.steps.push(Step::Hostname);
        if self.network == NetPlan::Fresh {
            self.steps.push(Step::LoopbackUp);
        }
        Ok(())
    }

    /// No sandbox: as little as lets the whole process tree be ended.
    fn process_tree(&mut self, spec: &SandboxSpec, privileges: Privileges) {
        if privileges.root {
            self.namespaces = libc::CLONE_NEWPID;
            if let Some(ids) = spec.host_ids {
                self.steps.push(Step::SetIds {
                    uid: ids.uid,
                    gid: ids.gid,
                });
            }
        } else if privileges.pid_namespace && privileges.obstacle.is_none() {
            self.namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
            self.id_map = Some(IdMap {
                inside: privileges.caller,
                outside: privileges.caller,
            });
            self.steps.push(Step::AwaitIdentity);
        }
    }

    /// Appends the steps that follow the file system, for every kind of process.
    fn finish(&mut self, spec: &SandboxSpec) -> Result<(), EngineError> {
        let mut persona = libc::ADDR_NO_RANDOMIZE as libc::c_ulong;
        if spec.linux32 {
            persona |= PER_LINUX32;
        }
        self.steps.extend([
            Step::NewSession,
            Step::WorkingDirectory {
                path: c_string(spec.cwd.as_os_str())?,
            },
            Step::Personality { persona },
            Step::Attributes,
        ]);
        let mut limit = |resource, value: Option<u64>| {
            let resource = resource as c_int;
            let step = value.map(|value| Step::Limit { resource, value });
            self.steps.extend(step);
        };
        // The kernel counts the processes of a user of a user namespace, which is just this sandbox.
        let processes = spec.limits.processes.filter(|_| self.sandboxed);
        limit(libc::RLIMIT_NPROC, processes);
        limit(libc::RLIMIT_FSIZE, spec.limits.disk);
        if self.memory.is_none() {
            limit(libc::RLIMIT_AS, spec.limits.memory);
        }
        if self.id_map.is_some() {
            self.steps.push(Step::DropCapabilities);
        }
        // Again, as a change of user clears the parent-death signal.
        self.steps.push(Step::DieWithParent);
        Ok(())
    }
}

/// The mounts of a specification, by when they are made.
struct MountPlan {
    layout: Layout,
    binds: Vec<Step>,
    filesystems: Vec<Step>,
    /// The size of `/dev/shm`.
    shared_memory: String,
}

impl MountPlan {
    /// Files in memory take no more than `memory` bytes for each file system.
    fn new(mounts: &[Mount], memory: Option<u64>) -> Result<Self, EngineError> {
        let mut plan = MountPlan {
            layout: Layout::default(),
            binds: Vec::new(),
            filesystems: Vec::new(),
            shared_memory: memory.map_or_else(|| "50%".to_owned(), |bytes| bytes.to_string()),
        };
        let mut covered = Covered::default();
        for mount in mounts {
            plan.add(mount, &mut covered)?;
        }
        Ok(plan)
    }

    fn add(&mut self, mount: &Mount, covered: &mut Covered) -> Result<(), EngineError> {
        match mount {
            Mount::Bind {
                source,
                target,
                access,
                optional,
            } => {
                let relative = relative_target(target)?;
                let nested = covered.contains(&relative);
                if !nested || *optional {
                    let metadata = match std::fs::metadata(source) {
                        Ok(metadata) => metadata,
                        Err(error) if *optional && error.kind() == std::io::ErrorKind::NotFound => {
                            return Ok(());
                        }
                        Err(error) => {
                            return Err(EngineError::setup::<std::io::Error>(format!(
                                "mounting {} at {}",
                                source.display(),
                                target.display()
                            ))(error));
                        }
                    };
                    if !nested {
                        let node = if metadata.is_dir() {
                            Node::Directory
                        } else {
                            Node::File(Vec::new())
                        };
                        self.layout.insert(&relative, node)?;
                    }
                }
                self.binds.push(Step::Bind {
                    source: c_string(source.as_os_str())?,
                    target: c_string(relative.as_os_str())?,
                    access: *access,
                });
                covered.insert(relative);
            }
            Mount::Symlink { target, to } => {
                covered.refuse(target, &relative_target(target)?)?;
                self.layout
                    .insert(&relative_target(target)?, Node::Symlink(to.clone()))?;
            }
            Mount::File { target, contents } => {
                covered.refuse(target, &relative_target(target)?)?;
                self.layout
                    .insert(&relative_target(target)?, Node::File(contents.clone()))?;
            }
            Mount::Tmpfs { target, size } => {
                let relative = relative_target(target)?;
                if !covered.contains(&relative) {
                    self.layout.insert(&relative, Node::Directory)?;
                }
                self.filesystems.push(tmpfs(&relative, size)?);
            }
            Mount::Device { path } => {
                let relative = relative_target(path)?;
                self.layout.insert(&relative, Node::File(Vec::new()))?;
                self.binds.push(Step::Device {
                    source: c_string(path.as_os_str())?,
                    target: c_string(relative.as_os_str())?,
                });
            }
            Mount::Dev => self.add_dev()?,
            Mount::Proc => {
                self.layout.insert(Path::new("proc"), Node::Directory)?;
                self.filesystems.push(Step::Filesystem {
                    kind: c"proc".to_owned(),
                    target: c"proc".to_owned(),
                    flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
                    options: None,
                });
            }
        }
        Ok(())
    }

    fn add_dev(&mut self) -> Result<(), EngineError> {
        self.layout.insert_dev()?;
        for device in DEVICES {
            self.binds.push(Step::Device {
                source: c_string(OsStr::new(&format!("/dev/{device}")))?,
                target: c_string(OsStr::new(&format!("dev/{device}")))?,
            });
        }
        self.filesystems.push(Step::Filesystem {
            kind: c"devpts".to_owned(),
            target: c"dev/pts".to_owned(),
            flags: libc::MS_NOSUID | libc::MS_NOEXEC,
            options: Some(c"newinstance,mode=0620,ptmxmode=0666".to_owned()),
        });
        self.filesystems
            .push(tmpfs(Path::new("dev/shm"), &self.shared_memory)?);
        Ok(())
    }
}

fn tmpfs(target: &Path, size: &str) -> Result<Step, EngineError> {
    if size.contains(',') {
        return Err(EngineError::InvalidSpec(format!(
            "{size:?} is no size of a tmpfs"
        )));
    }
    Ok(Step::Filesystem {
        kind: c"tmpfs".to_owned(),
        target: c_string(target.as_os_str())?,
        flags: libc::MS_NOSUID | libc::MS_NODEV,
        options: Some(c_string(OsStr::new(&format!("mode=1777,size={size}")))?),
    })
}

/// Targets of bind mounts so far. The engine creates nothing below them.
#[derive(Default)]
struct Covered(BTreeSet<PathBuf>);

impl Covered {
    fn insert(&mut self, target: PathBuf) {
        self.0.insert(target);
    }

    fn contains(&self, target: &Path) -> bool {
        target
            .ancestors()
            .skip(1)
            .any(|ancestor| self.0.contains(ancestor))
    }

    fn refuse(&self, target: &Path, relative: &Path) -> Result<(), EngineError> {
        if self.contains(relative) {
            return Err(EngineError::InvalidSpec(format!(
                "{} would have to be created inside a bind mount",
                target.display()
            )));
        }
        Ok(())
    }
}

fn c_string(text: &OsStr) -> Result<CString, EngineError> {
    CString::new(text.as_bytes())
        .map_err(|_| EngineError::InvalidSpec(format!("{text:?} contains a NUL byte")))
}
