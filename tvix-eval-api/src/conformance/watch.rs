//! Follows a stream and checks each event.

use std::collections::HashSet;
use std::fmt;

use futures::StreamExt;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};

use super::graph::{Subject, TestGraph};
use crate::{
    EvalError, EvalEvent, EvalSource, EvalStream, Realise, RealiseError, RealisedOutput, Root,
    WantedOutputs,
};

pub(super) struct Watch<'a> {
    subject: &'a Subject,
    events: EvalStream,
    /// Names of the requested attributes.
    names: Vec<String>,
    /// Sources that must precede the derivations that refer to them.
    sources: HashSet<StorePath>,
    pub(super) seen: HashSet<StorePath>,
    pub(super) roots: Vec<Root>,
    pub(super) errors: Vec<EvalError>,
}

pub(super) enum Seen {
    Derivation,
    Root,
    Realise(Realise),
    Error,
    Other,
}

impl<'a> Watch<'a> {
    /// Requests attributes of an evaluator made from `graph`. With `sources`, the graph's sources
    /// must be yielded.
    pub(super) async fn start(
        subject: &'a Subject,
        attrs: &[&str],
        sources: Option<&TestGraph>,
    ) -> Result<Self, String> {
        let request = (subject.request)(attrs);
        let mut names = request.attr_paths.clone();
        if let EvalSource::Derivations(texts) = &request.source {
            names.extend_from_slice(texts);
        }
        let events = subject.evaluator.evaluate(request).await;
        let sources = sources.into_iter().flat_map(|graph| &graph.sources);
        Ok(Self {
            subject,
            events: events.map_err(|error| format!("evaluate failed: {}", chain(&error)))?,
            names,
            sources: sources.map(|source| source.path.clone()).collect(),
            seen: HashSet::new(),
            roots: Vec::new(),
            errors: Vec::new(),
        })
    }

    /// The next event, or an error if it violates the order.
    pub(super) async fn next(&mut self) -> Result<Option<Seen>, String> {
        let Some(event) = self.events.next().await else {
            return Ok(None);
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.errors.push(error);
                return Ok(Some(Seen::Error));
            }
        };
        Ok(Some(match event {
            EvalEvent::Derivation {
                path, derivation, ..
            } => {
                let computed = derivation.path(&StoreDir::default());
                if computed.as_ref() != Ok(&path) {
                    return Err(format!("{path} is not the path of its derivation"));
                }
                let drvs = derivation.input_drvs.iter().map(|(input, _)| input);
                let sources = derivation.input_srcs.iter();
                let sources = sources.filter(|source| self.sources.contains(*source));
                for input in drvs.chain(sources) {
                    if !self.seen.contains(input) {
                        return Err(format!("{path} came before {input}, which it needs"));
                    }
                }
                self.seen.insert(path);
                Seen::Derivation
            }
            EvalEvent::AddSource(source) => {
                let mut needed = source.references.iter();
                let missing = needed.find(|needed| {
                    self.sources.contains(*needed)
                        && !self.seen.contains(*needed)
                        && **needed != source.path
                });
                if let Some(missing) = missing {
                    let path = source.path;
                    return Err(format!("{path} came before {missing}, to which it refers"));
                }
                self.seen.insert(source.path);
                Seen::Other
            }
            EvalEvent::Root(root) => {
                self.check_wanted("the root", &root.wanted)?;
                let of = |name: &String| {
                    let rest = root.name.strip_prefix(name.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                };
                if !self.names.iter().any(of) {
                    return Err(format!(
                        "'{}' is a root, and nobody asked for it",
                        root.name
                    ));
                }
                self.roots.push(root);
                Seen::Root
            }
            EvalEvent::Realise(realise) => {
                for wanted in &realise.wanted {
                    self.check_wanted("an import", wanted)?;
                }
                Seen::Realise(realise)
            }
            EvalEvent::Diagnostic(_) => Seen::Other,
        }))
    }

    fn check_wanted(&self, what: &str, wanted: &WantedOutputs) -> Result<(), String> {
        let path = &wanted.drv_path;
        if wanted.outputs.is_empty() {
            return Err(format!("{what} wants no output of {path}"));
        }
        if self.seen.contains(path) {
            return Ok(());
        }
        Err(format!("{what} came before {path}, which it names"))
    }

    /// Follows the stream to its end, and answers all imports.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        while let Some(seen) = self.next().await? {
            if let Seen::Realise(realise) = seen {
                self.answer(realise);
            }
        }
        Ok(())
    }

    /// Follows the stream until it has yielded `count` imports.
    pub(super) async fn imports(&mut self, count: usize) -> Result<Vec<Realise>, String> {
        let mut imports = Vec::new();
        while imports.len() < count {
            match self.next().await? {
                Some(Seen::Realise(realise)) => imports.push(realise),
                Some(_) => {}
                None => {
                    let found = imports.len();
                    return Err(format!("ended after {found} of {count} imports"));
                }
            }
        }
        Ok(imports)
    }

    /// Answers an import as if all of its outputs had been built.
    pub(super) fn answer(&self, realise: Realise) {
        let dir = StoreDir::default();
        let mut outputs = Vec::new();
        for wanted in &realise.wanted {
            for output in &wanted.outputs {
                let local_path = (self.subject.output_file)(&wanted.drv_path, output.as_str());
                outputs.push(RealisedOutput {
                    drv_path: wanted.drv_path.clone(),
                    output: output.clone(),
                    // No case depends on which path this is.
                    store_path: dir
                        .parse(&local_path.to_string_lossy()[..])
                        .unwrap_or_else(|_| wanted.drv_path.clone()),
                    local_path,
                    references: SortedSet::new(),
                });
            }
        }
        realise.reply.answer(Ok(outputs));
    }

    /// The derivations and outputs of all roots, sorted.
    pub(super) fn wanted(&self) -> Vec<(StorePath, Vec<String>)> {
        let mut wanted: Vec<_> = self
            .roots
            .iter()
            .map(|root| {
                let outputs = root.wanted.outputs.iter().map(ToString::to_string);
                let mut outputs: Vec<_> = outputs.collect();
                outputs.sort();
                (root.wanted.drv_path.clone(), outputs)
            })
            .collect();
        wanted.sort();
        wanted
    }

    pub(super) fn no_errors(&self) -> Result<(), String> {
        match self.errors.first() {
            None => Ok(()),
            Some(error) => Err(format!("failed: {}", chain(error))),
        }
    }

    /// Checks that the only error is the failed import of `attr`, and returns its cause.
    pub(super) fn import_failed(&self, attr: &str) -> Result<&RealiseError, String> {
        match &self.errors[..] {
            [
                EvalError::Import {
                    attr_path, source, ..
                },
            ] if attr_path == attr => Ok(source),
            other => Err(format!("not the one failed import of '{attr}': {other:?}")),
        }
    }
}

pub(super) fn same<T: PartialEq + fmt::Debug>(
    what: &str,
    found: T,
    wanted: T,
) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, wanted {wanted:?}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
