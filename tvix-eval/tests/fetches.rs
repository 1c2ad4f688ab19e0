//! Fetches beside the evaluation.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tvix_eval::NixEvaluator;
use tvix_eval::fetch::{Cancel, FetchError, FetchRequest, Fetched, Fetcher};
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator as _, RealiseError};

/// Fetches until it is cancelled.
struct Endless {
    began: Mutex<Sender<()>>,
    ended: Mutex<Sender<()>>,
}

fn send(to: &Mutex<Sender<()>>) {
    let to = to.lock().unwrap_or_else(PoisonError::into_inner);
    to.send(()).unwrap();
}

impl Fetcher for Endless {
    fn fetch(&self, _: &FetchRequest, cancel: &Cancel) -> Result<Fetched, FetchError> {
        send(&self.began);
        while !cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        send(&self.ended);
        Err(FetchError::Cancelled)
    }
}

fn within_ten_seconds(receiver: &Receiver<()>) {
    receiver.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_ahead_that_is_not_needed_is_cancelled() {
    let (began, has_begun) = channel();
    let (ended, has_ended) = channel();
    let evaluator = NixEvaluator::default().with_fetcher(Endless {
        began: Mutex::new(began),
        ended: Mutex::new(ended),
    });
    let text = r#"
        let made = name: derivation { inherit name; system = "s"; builder = "b"; };
        in derivation {
          name = "x"; system = "s"; builder = "b";
          first = import (made "unfit");
          second = builtins.fetchurl "http://localhost/file";
        }"#;
    let request = EvalRequest::new(EvalSource::Expression {
        text: text.to_owned(),
        base: "/".into(),
    });
    let mut events = evaluator.evaluate(request).await.unwrap();
    let mut errors = 0;
    let mut import = None;
    // The fetch begins while the import waits.
    while let Some(event) = events.next().await {
        match event {
            Ok(EvalEvent::Realise(request)) => {
                import = Some(request.reply);
                break;
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let import = import.expect("an import");
    let answered = tokio::spawn(async move {
        tokio::task::spawn_blocking(move || within_ten_seconds(&has_begun))
            .await
            .unwrap();
        import.answer(Err(RealiseError::Store("not now".to_owned())));
    });
    while let Some(event) = events.next().await {
        errors += usize::from(event.is_err());
    }
    answered.await.unwrap();
    assert_eq!(errors, 1);
    // The stream was not dropped.
    within_ten_seconds(&has_ended);
    drop(events);
}
