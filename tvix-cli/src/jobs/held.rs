//! Derivations and sources that nothing needs yet.

use futures::future::Either;
use futures::{Stream, stream};
use tvix_eval_api::{EvalError, EvalEvent};

/// Holds derivations and sources back until the evaluation needs a build. Mostly it needs none, and the
/// session has no work with them.
#[derive(Debug)]
pub struct Held {
    /// `None` if nothing is held back.
    events: Option<Vec<EvalEvent>>,
}

impl Held {
    /// Holds events back if `holds` is true.
    pub fn new(holds: bool) -> Self {
        Self {
            events: holds.then(Vec::new),
        }
    }

    /// The events to pass on when this one comes.
    pub fn pass(&mut self, event: EvalEvent) -> Passed {
        let Some(held) = &mut self.events else {
            return Passed::One(Ok(event));
        };
        match event {
            EvalEvent::Derivation { .. } | EvalEvent::AddSource(_) => {
                held.push(event);
                Passed::Nothing
            }
            EvalEvent::Realise(_) => {
                let mut all = std::mem::take(held);
                self.events = None;
                all.push(event);
                Passed::All(all)
            }
            event => Passed::One(Ok(event)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The process ends soon, and to free them takes noticeable time.
        std::mem::forget(self.events.take());
    }
}

/// Events that are passed on.
#[derive(Debug)]
pub enum Passed {
    Nothing,
    One(Result<EvalEvent, EvalError>),
    All(Vec<EvalEvent>),
}

impl Passed {
    /// The event, if it is wanted.
    pub fn if_so(wanted: bool, event: Result<EvalEvent, EvalError>) -> Self {
        match wanted {
            true => Self::One(event),
            false => Self::Nothing,
        }
    }

    /// The events in their order.
    pub fn into_stream(self) -> impl Stream<Item = Result<EvalEvent, EvalError>> + Send {
        let one = match self {
            Self::Nothing => None,
            Self::One(event) => Some(event),
            Self::All(events) => {
                return Either::Right(stream::iter(events.into_iter().map(Ok)));
            }
        };
        Either::Left(stream::iter(one))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix_compat::derivation::DerivationBuilder;
    use nix_compat::store_path::StoreDir;
    use tvix_eval_api::{Diagnostic, Severity, realise};

    use super::*;

    fn derivation(name: &str) -> EvalEvent {
        let made = DerivationBuilder::new(name, "system", "/builder");
        let made = made.instantiate(&StoreDir::default()).unwrap();
        EvalEvent::Derivation {
            path: made.path,
            derivation: Arc::clone(&made.derivation),
            modulo: None,
        }
    }

    #[test]
    fn derivations_are_held_until_an_import_needs_a_build() {
        let mut held = Held::new(true);
        assert!(matches!(held.pass(derivation("a")), Passed::Nothing));
        let diagnostic = EvalEvent::Diagnostic(Diagnostic::new(Severity::Trace, "x"));
        assert!(matches!(held.pass(diagnostic), Passed::One(_)));
        assert!(matches!(held.pass(derivation("b")), Passed::Nothing));
        let (request, _answer) = realise(Vec::new());
        let Passed::All(all) = held.pass(EvalEvent::Realise(request)) else {
            panic!("it passes everything on");
        };
        let names = all.iter().map(|event| match event {
            EvalEvent::Derivation { derivation, .. } => derivation.name.to_string(),
            EvalEvent::Realise(_) => "import".to_owned(),
            other => panic!("{other:?}"),
        });
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "import"]);
        assert!(matches!(held.pass(derivation("c")), Passed::One(_)));
    }

    #[test]
    fn nothing_is_held_if_derivations_are_recorded() {
        let mut held = Held::new(false);
        assert!(matches!(held.pass(derivation("a")), Passed::One(_)));
    }
}
