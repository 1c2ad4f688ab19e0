//! Evaluates an expression, and writes the bytes that each collection found in use, the peak of memory and page
//! faults.
//!
//! `cargo run --release -p tvix-benches --bin eval_memory -- EXPR`

use std::fmt::Debug;

use futures::StreamExt as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tvix_eval::world::Settings;
use tvix_eval::{NixEvaluator, PrintFormat};
use tvix_eval_api::{EvalRequest, EvalSource};

/// Writes the events of the evaluator.
struct Writer;

impl Subscriber for Writer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tvix_eval")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        eprintln!("{}", line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

/// A line of `/proc/self/status`.
fn status(name: &str) -> std::io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.unwrap_or_default().trim().to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).ok_or("no expression")?;
    tracing::subscriber::set_global_default(Writer)?;
    let request = EvalRequest::new(EvalSource::Expression {
        text,
        base: std::env::current_dir()?,
    });
    let printing = NixEvaluator::new(Settings::default())
        .print(vec![request], PrintFormat::Nix { strict: true })?;
    let mut events = printing.events;
    while let Some(event) = events.next().await {
        event?;
    }
    let printed = printing.result.await??;
    match printed.failure {
        Some(failure) => return Err(failure.rendered.into()),
        None => println!("{}", String::from_utf8_lossy(&printed.text)),
    }
    eprintln!("peak: {}", status("VmHWM:")?);
    Ok(())
}
