//! A session as its user sees it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{FusedStream, Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tvix_eval_api::EvalRequest;

use super::coordinator::Coordinator;
use super::outbox::{Inbox, outbox};
use super::run::Driver;
use crate::event::EventRecord;
use crate::report::{Report, SessionError, Status};

/// A session: a stream of [`EventRecord`]s, and a future of the [`Report`].
///
/// Take events as long as they come, or call [`Session::report`], which drops the rest of them. A
/// listener that holds the stream and does not read it stops the session before long. Dropping the
/// session ends everything that it runs, at once; [`Session::cancel`] ends it in order, with a
/// report.
#[derive(Debug)]
pub struct Session {
    events: SessionEvents,
    report: SessionReport,
}

/// The events of a [`Session`].
#[derive(Debug)]
pub struct SessionEvents {
    inbox: Inbox,
    ended: bool,
}

/// The report of a [`Session`], to be awaited. Dropping it ends the session at once.
#[derive(Debug)]
pub struct SessionReport {
    task: JoinHandle<Report>,
    cancel: CancellationToken,
}

impl Coordinator {
    /// Starts to evaluate `request` and to build the derivations that it yields, on a task of its
    /// own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(&self, request: EvalRequest) -> Session {
        Session::start(self.clone(), request)
    }
}

impl Session {
    fn start(coordinator: Coordinator, request: EvalRequest) -> Self {
        let cancel = CancellationToken::new();
        let (outbox, inbox) = outbox();
        let driver = Driver::new(coordinator, outbox, cancel.clone());
        let task = tokio::spawn(driver.run(request));
        let events = SessionEvents {
            inbox,
            ended: false,
        };
        Self {
            events,
            report: SessionReport { task, cancel },
        }
    }

    /// The next event; `None` after the last. Dropping the future loses none.
    pub async fn next_event(&mut self) -> Option<EventRecord> {
        self.events.next().await
    }

    /// The report. Events that were not taken are dropped.
    pub async fn report(self) -> Report {
        let Self { events, report } = self;
        drop(events);
        report.await
    }

    /// Ends running builds, and then the session, with [`Status::Cancelled`].
    pub fn cancel(&self) {
        self.report.cancel.cancel();
    }

    /// A token that ends the session when it is cancelled: for Ctrl-C handlers and the like.
    pub fn cancellation(&self) -> CancellationToken {
        self.report.cancel.clone()
    }

    /// Events and report, to be taken by different tasks.
    pub fn split(self) -> (SessionEvents, SessionReport) {
        (self.events, self.report)
    }
}

impl Stream for Session {
    type Item = EventRecord;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventRecord>> {
        self.events.poll_next_unpin(cx)
    }
}

impl FusedStream for Session {
    fn is_terminated(&self) -> bool {
        self.events.ended
    }
}

impl Stream for SessionEvents {
    type Item = EventRecord;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventRecord>> {
        let event = self.inbox.poll_next(cx);
        self.ended |= matches!(event, Poll::Ready(None));
        event
    }
}

impl Future for SessionReport {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        Pin::new(&mut self.task).poll(cx).map(|ended| {
            ended.unwrap_or_else(|error| {
                let message = format!("the coordinator ended before its time: {error}");
                let mut report = Report::new(Status::Bug);
                report.errors.push(SessionError::Bug { message });
                report
            })
        })
    }
}

impl Drop for SessionReport {
    fn drop(&mut self) {
        self.task.abort();
    }
}
