//! Fetches that are in flight together, and cancelled ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use tvix_eval::error::ErrorKind;
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator as _};

use super::World;
use super::server::{Page, Server};

const ATTRIBUTES: usize = 4;

/// The server answers nobody before all have asked.
#[tokio::test(flavor = "current_thread")]
async fn attributes_fetch_together() {
    let world = World::new();
    let server = Server::start();
    let mut text = "{".to_owned();
    for number in 0..ATTRIBUTES {
        let path = format!("/{number}.nix");
        let page = Page::of(format!(
            "derivation {{ name = \"d{number}\"; system = \"any\"; builder = \"/bin/sh\"; }}"
        ));
        server.put(
            &path,
            Page {
                gathers: ATTRIBUTES,
                ..page
            },
        );
        text += &format!(
            "a{number} = import (builtins.fetchurl \"{}\");",
            server.url(&path)
        );
    }
    text += "}";
    let mut request = EvalRequest::new(EvalSource::Expression {
        text,
        base: "/".into(),
    });
    request.attr_paths = (0..ATTRIBUTES).map(|number| format!("a{number}")).collect();
    let events = world.evaluator().evaluate(request).await.unwrap();
    let events: Vec<_> = events.map(|event| event.unwrap()).collect().await;
    let count = |is: fn(&EvalEvent) -> bool| events.iter().filter(|event| is(event)).count();
    assert_eq!(
        count(|event| matches!(event, EvalEvent::Root(_))),
        ATTRIBUTES
    );
    assert_eq!(
        count(|event| matches!(event, EvalEvent::AddSource(_))),
        ATTRIBUTES
    );
}

#[test]
fn a_fetch_is_cancelled() {
    let world = World::new();
    let server = Arc::new(Server::start());
    server.put(
        "/x",
        Page {
            silent: true,
            ..Page::of("")
        },
    );
    let flag = Arc::new(AtomicBool::new(false));
    let evaluator = world.evaluator().with_cancellation(flag.clone());
    let watched = server.clone();
    let canceller = std::thread::spawn(move || {
        while watched.seen().is_empty() {
            std::thread::yield_now();
        }
        flag.store(true, Ordering::Relaxed);
    });
    let text = format!("builtins.fetchurl \"{}\"", server.url("/x"));
    let failure = evaluator.eval_to::<String>(&text).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    canceller.join().unwrap();
}
