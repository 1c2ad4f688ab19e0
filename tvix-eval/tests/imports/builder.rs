//! A builder with virtual time, as the host of an evaluation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::Derivation;
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
    /// Builds that have not started, in the order in which they were requested.
    queue: RefCell<VecDeque<StorePath>>,
    /// Running builds by their ends.
    running: RefCell<BTreeSet<(u64, StorePath)>>,
    /// Requests by fiber.
    requests: RefCell<BTreeMap<u32, Request>>,
    /// The fibers that wait for a build.
    waiting: RefCell<BTreeMap<StorePath, Vec<u32>>>,
    /// Fibers whose requests can be answered.
    answers: RefCell<VecDeque<u32>>,
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
            queue: RefCell::default(),
            running: RefCell::default(),
            requests: RefCell::default(),
            waiting: RefCell::default(),
            answers: RefCell::default(),
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
        for one in &wanted {
            let path = &one.drv_path;
            assert!(
                self.derivations.borrow().contains_key(path),
                "an import of a derivation that was not reported"
            );
            if !self.builds.borrow().contains_key(path) {
                self.builds.borrow_mut().insert(path.clone(), Build::Queued);
                self.queue.borrow_mut().push_back(path.clone());
            }
            let mut waiting = self.waiting.borrow_mut();
            waiting.entry(path.clone()).or_default().push(fiber);
        }
        let request = Request { wanted, ahead };
        self.requests.borrow_mut().insert(fiber, request);
        if self.slots == 0 {
            while let Some(path) = self.queue.borrow_mut().pop_front() {
                self.end(&path);
            }
        }
        self.check(fiber);
    }

    /// Answers a request if its builds have ended.
    fn check(&self, fiber: u32) {
        let requests = self.requests.borrow();
        let Some(request) = requests.get(&fiber) else {
            return;
        };
        let builds = self.builds.borrow();
        let mut wanted = request.wanted.iter().map(|one| &one.drv_path);
        if wanted.all(|path| builds[path] == Build::Done && !(request.ahead && self.fails(path))) {
            let mut answers = self.answers.borrow_mut();
            if !answers.contains(&fiber) {
                answers.push_back(fiber);
            }
        }
    }

    /// Starts builds that evaluation waits for, then others, while there are free slots.
    fn start(&self) {
        let mut queue = self.queue.borrow_mut();
        let mut running = self.running.borrow_mut();
        while running.len() < self.slots && !queue.is_empty() {
            let requests = self.requests.borrow();
            let waiting = self.waiting.borrow();
            let is_needed = |path: &StorePath| {
                let mut fibers = waiting.get(path).into_iter().flatten();
                fibers.any(|fiber| requests.get(fiber).is_some_and(|it| !it.ahead))
            };
            let first = match queue.len() < self.slots {
                true => 0,
                false => queue.iter().position(is_needed).unwrap_or(0),
            };
            let Some(path) = queue.remove(first) else {
                return;
            };
            let end = self.now.get() + self.duration(&path);
            self.builds
                .borrow_mut()
                .insert(path.clone(), Build::Running(end));
            running.insert((end, path));
        }
        self.most_at_once
            .set(self.most_at_once.get().max(running.len()));
    }

    fn end(&self, path: &StorePath) {
        self.builds.borrow_mut().insert(path.clone(), Build::Done);
        assert!(
            self.ended.borrow_mut().insert(path.clone()),
            "a derivation was built twice"
        );
        self.work.set(self.work.get() + self.duration(path));
        let fibers = self.waiting.borrow().get(path).cloned();
        for fiber in fibers.unwrap_or_default() {
            self.check(fiber);
        }
    }

    fn answer(&self, fiber: u32) -> Option<(u32, Answer)> {
        let request = self.requests.borrow_mut().remove(&fiber)?;
        for one in &request.wanted {
            if let Some(fibers) = self.waiting.borrow_mut().get_mut(&one.drv_path) {
                fibers.retain(|other| *other != fiber);
            }
        }
        let outputs = request.wanted.iter().map(|one| self.output(one));
        Some((fiber, Answer::Realised(outputs.collect())))
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
        Ok(RealisedOutput::new(
            path.clone(),
            output.clone(),
            store_path,
            local_path,
        ))
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
        if let Some(request) = self.requests.borrow_mut().get_mut(&fiber) {
            request.ahead = false;
        }
        self.check(fiber);
    }

    fn forget(&self, fiber: u32) {
        let Some(request) = self.requests.borrow_mut().remove(&fiber) else {
            return;
        };
        for one in request.wanted {
            let path = one.drv_path;
            let mut waiting = self.waiting.borrow_mut();
            let fibers = waiting.entry(path.clone()).or_default();
            fibers.retain(|other| *other != fiber);
            let build = self.builds.borrow()[&path];
            if fibers.is_empty() && build != Build::Done {
                self.builds.borrow_mut().remove(&path);
                self.queue.borrow_mut().retain(|queued| *queued != path);
                if let Build::Running(end) = build {
                    self.running.borrow_mut().remove(&(end, path));
                }
            }
        }
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        loop {
            if let Some(answer) = self.ready_answer() {
                return Some(answer);
            }
            self.start();
            let (end, path) = self.running.borrow_mut().pop_first()?;
            self.now.set(end);
            self.end(&path);
        }
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        loop {
            let fiber = self.answers.borrow_mut().pop_front()?;
            if let Some(answer) = self.answer(fiber) {
                return Some(answer);
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}
