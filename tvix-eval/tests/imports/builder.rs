//! A builder with virtual time, as the host of an evaluation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_eval::files::{FileKind, Files};
use tvix_eval::host::{Answer, Host};
use tvix_eval_api::{Diagnostic, RealiseError, RealisedOutput, SourceAddition, WantedOutputs};

/// Files that were built.
#[derive(Default)]
pub struct Built(RefCell<BTreeMap<PathBuf, Vec<u8>>>);

impl Files for Built {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.0.borrow();
        files
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        let files = self.0.borrow();
        Ok(if files.contains_key(path) {
            Some(FileKind::Regular { executable: false })
        } else if Path::new("/nix/store").starts_with(path) {
            Some(FileKind::Directory)
        } else {
            None
        })
    }

    fn len(&self, path: &Path) -> u64 {
        self.0
            .borrow()
            .get(path)
            .map_or(0, |text| text.len() as u64)
    }

    fn entries(&self, _: &Path) -> io::Result<Vec<(Vec<u8>, FileKind)>> {
        Ok(Vec::new())
    }

    fn target(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn on_disk(&self, _: &Path) -> Option<PathBuf> {
        None
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Build {
    Queued,
    /// It ends at this time.
    Running(u64),
    Done,
}

struct Request {
    fiber: u32,
    wanted: Vec<WantedOutputs>,
    ahead: bool,
}

/// The builder. The variables of a derivation say what its build does: `secs` its duration, `text`
/// its output, `fail` whether it fails.
pub struct Builder {
    pub files: Rc<Built>,
    /// Maximum number of builds at once; 0 answers at once, so that evaluation is in order.
    slots: usize,
    now: Cell<u64>,
    derivations: RefCell<BTreeMap<StorePath, Arc<Derivation>>>,
    builds: RefCell<BTreeMap<StorePath, Build>>,
    requests: RefCell<VecDeque<Request>>,
    pub messages: RefCell<Vec<String>>,
    /// Derivations whose builds ended.
    pub ended: RefCell<BTreeSet<StorePath>>,
    pub most_at_once: Cell<usize>,
    /// Sum of the durations of the builds that ended.
    pub work: Cell<u64>,
}

impl Builder {
    pub fn new(slots: usize) -> Self {
        Self {
            files: Rc::default(),
            slots,
            now: Cell::new(0),
            derivations: RefCell::default(),
            builds: RefCell::default(),
            requests: RefCell::default(),
            messages: RefCell::default(),
            ended: RefCell::default(),
            most_at_once: Cell::new(0),
            work: Cell::new(0),
        }
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    fn variable(&self, path: &StorePath, name: &str) -> String {
        let derivations = self.derivations.borrow();
        let variables = &derivations[path].env;
        let mut found = variables.iter().filter(|(key, _)| *key == name);
        found
            .next()
            .map(|(_, value)| value.to_string())
            .unwrap_or_default()
    }

    fn duration(&self, path: &StorePath) -> u64 {
        self.variable(path, "secs").parse().unwrap_or(1)
    }

    fn fails(&self, path: &StorePath) -> bool {
        !self.variable(path, "fail").is_empty()
    }

    fn add(&self, fiber: u32, wanted: Vec<WantedOutputs>, ahead: bool) {
        let mut builds = self.builds.borrow_mut();
        for one in &wanted {
            assert!(
                self.derivations.borrow().contains_key(&one.drv_path),
                "an import of a derivation that was not reported"
            );
            builds.entry(one.drv_path.clone()).or_insert(Build::Queued);
        }
        let request = Request {
            fiber,
            wanted,
            ahead,
        };
        self.requests.borrow_mut().push_back(request);
    }

    /// Starts builds that evaluation waits for, then others, while there are free slots.
    fn start(&self) {
        let requests = self.requests.borrow();
        let mut builds = self.builds.borrow_mut();
        let mut running = builds
            .values()
            .filter(|build| matches!(build, Build::Running(_)))
            .count();
        for ahead in [false, true] {
            for request in requests.iter().filter(|request| request.ahead == ahead) {
                for one in &request.wanted {
                    let path = &one.drv_path;
                    if running < self.slots && builds[path] == Build::Queued {
                        let end = self.now.get() + self.duration(path);
                        builds.insert(path.clone(), Build::Running(end));
                        running += 1;
                    }
                }
            }
        }
        self.most_at_once.set(self.most_at_once.get().max(running));
    }

    fn end(&self, path: &StorePath) {
        self.builds.borrow_mut().insert(path.clone(), Build::Done);
        assert!(
            self.ended.borrow_mut().insert(path.clone()),
            "a derivation was built twice"
        );
        self.work.set(self.work.get() + self.duration(path));
    }

    /// Takes out the first request that can be answered.
    fn answer(&self) -> Option<(u32, Answer)> {
        let mut requests = self.requests.borrow_mut();
        let at = requests.iter().position(|request| {
            request.wanted.iter().all(|one| {
                self.builds.borrow()[&one.drv_path] == Build::Done
                    && !(request.ahead && self.fails(&one.drv_path))
            })
        })?;
        let request = requests.remove(at)?;
        let outputs = request.wanted.iter().map(|one| self.output(one));
        Some((request.fiber, Answer::Realised(outputs.collect())))
    }

    fn output(&self, wanted: &WantedOutputs) -> Result<RealisedOutput, RealiseError> {
        let path = &wanted.drv_path;
        if self.fails(path) {
            return Err(RealiseError::Failed {
                drv_path: path.clone(),
                message: "it fails on purpose".to_owned(),
                log_tail: vec!["a line".to_owned()],
            });
        }
        let dir = StoreDir::default();
        let derivation = self.derivations.borrow()[path].clone();
        let output = &wanted.outputs[0];
        let (_, declared) = derivation
            .outputs
            .iter()
            .find(|(name, _)| *name == output)
            .expect("the output exists");
        let store_path = declared
            .path(&dir, &derivation.name, output)
            .expect("the output has a path");
        let local_path = PathBuf::from(dir.display(&store_path).to_string());
        let text = self.variable(path, "text").into_bytes();
        self.files.0.borrow_mut().insert(local_path.clone(), text);
        Ok(RealisedOutput {
            drv_path: path.clone(),
            output: output.clone(),
            store_path,
            local_path,
            references: SortedSet::new(),
        })
    }
}

impl Host for Builder {
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        _: Option<[u8; 32]>,
    ) -> bool {
        let mut derivations = self.derivations.borrow_mut();
        derivations.insert(path.clone(), derivation.clone());
        true
    }

    fn source(&self, _: SourceAddition) -> bool {
        true
    }

    fn diagnostic(&self, diagnostic: Diagnostic) {
        self.messages.borrow_mut().push(diagnostic.message);
    }

    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        self.add(fiber, wanted, false);
    }

    fn realise_ahead(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        self.add(fiber, wanted, true);
    }

    fn needed(&self, fiber: u32) {
        let mut requests = self.requests.borrow_mut();
        for request in requests.iter_mut().filter(|it| it.fiber == fiber) {
            request.ahead = false;
        }
    }

    fn forget(&self, fiber: u32) {
        let mut requests = self.requests.borrow_mut();
        requests.retain(|request| request.fiber != fiber);
        let wanted: BTreeSet<_> = requests
            .iter()
            .flat_map(|request| request.wanted.iter().map(|one| one.drv_path.clone()))
            .collect();
        let mut builds = self.builds.borrow_mut();
        builds.retain(|path, build| *build == Build::Done || wanted.contains(path));
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        loop {
            if let Some(answer) = self.ready_answer() {
                return Some(answer);
            }
            self.start();
            let next = self.builds.borrow().iter().find_map(|(path, build)| {
                let first = self.builds.borrow().values().filter_map(end_of).min();
                (end_of(build).is_some() && end_of(build) == first).then(|| (path.clone(), first))
            });
            let (path, Some(end)) = next? else {
                return None;
            };
            self.now.set(end);
            self.end(&path);
        }
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        if self.slots == 0 {
            let queued: Vec<_> = {
                let builds = self.builds.borrow();
                let queued = builds.iter().filter(|(_, build)| **build == Build::Queued);
                queued.map(|(path, _)| path.clone()).collect()
            };
            for path in queued {
                self.end(&path);
            }
        }
        self.answer()
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

fn end_of(build: &Build) -> Option<u64> {
    match build {
        Build::Running(end) => Some(*end),
        _ => None,
    }
}
