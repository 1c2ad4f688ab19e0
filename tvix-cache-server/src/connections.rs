//! Connections, and how long anything may take on them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use crate::ServerOptions;

/// Headers of a request, in number and in bytes.
const MOST_HEADERS: usize = 64;
const MOST_HEADER_BYTES: usize = 16 * 1024;

/// How long requests may go on after the end.
const GRACE: Duration = Duration::from_secs(10);

/// Pauses when no connection can be accepted, mostly because there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve(
    router: Router,
    options: &ServerOptions,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Semaphore::new(options.connections.max(1)));
    let ending = tokio_util::sync::CancellationToken::new();
    // Dropped with the future, it ends them.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let next = async {
            // It is never closed.
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            // Those that are over are let go.
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let connection = connection(router.clone(), options, stream, ending.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    ending.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    // Those that take longer are dropped.
    let _ = tokio::time::timeout(GRACE, ended).await;
}

fn connection(
    router: Router,
    options: &ServerOptions,
    stream: TcpStream,
    ending: tokio_util::sync::CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    // Answers are written as a whole or in large chunks.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(options.write_timeout));
    let header_timeout = options.header_timeout;
    async move {
        let stream = Box::pin(stream);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::pin!(connection);
        // What goes wrong on a connection is the client's to notice.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}
