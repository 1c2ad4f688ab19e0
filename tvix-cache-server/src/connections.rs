//! Connections and their time-outs.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::ServerOptions;
use crate::table::{Busy, Entry, Table};

/// Limits of the headers of a request: number, and size in bytes.
const MOST_HEADERS: usize = 64;
const MOST_HEADER_BYTES: usize = 16 * 1024;

/// How long requests may continue after the shutdown signal.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after a failure to accept a connection, mostly because of too many open files.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve(
    router: Router,
    options: &ServerOptions,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    let all = options.connections.max(1);
    let places = Arc::new(Semaphore::new(all));
    let table = Arc::new(Table::new(options.connections_per_address));
    let ending = CancellationToken::new();
    // Dropping the set with the future ends the connections.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Reaps finished connections.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Closed immediately if the address has too many connections.
        let Some(entry) = table.enter(peer.ip()) else {
            continue;
        };
        if places.available_permits() == 0 {
            table.close_idle();
        }
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = table.place(&places) => place,
        };
        let connection = connection(router.clone(), options, stream, entry, ending.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    ending.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    // Requests that take longer are dropped.
    let _ = tokio::time::timeout(GRACE, ended).await;
}

fn connection(
    router: Router,
    options: &ServerOptions,
    stream: TcpStream,
    entry: Entry,
    ending: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    // Responses are written as a whole or in large chunks.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(options.write_timeout));
    let header_timeout = options.header_timeout;
    async move {
        let stream = Box::pin(stream);
        let activity = entry.activity.clone();
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let guard = activity.begin();
            let answer = router.call(request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| {
                    Body::new(Guarded {
                        body,
                        _guard: guard,
                    })
                }))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // Errors of a connection are visible to the client only.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = entry.closed.cancelled() => {}
            () = ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// The body of a response; its request is in progress until it is dropped.
struct Guarded {
    body: Body,
    _guard: Busy,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
