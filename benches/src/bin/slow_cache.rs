//! A server for the files in a directory that delays each request: a distant binary cache.
//!
//!     cargo run --release -p tvix-benches --bin slow_cache -- FOLDER MILLISECONDS
//!
//! Prints its address, and serves until it is killed. Connections are kept open.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Far {
    folder: PathBuf,
    delay: Duration,
}

async fn file(State(far): State<Far>, uri: Uri) -> Result<Vec<u8>, StatusCode> {
    tokio::time::sleep(far.delay).await;
    let name = uri.path().trim_start_matches('/');
    if name.split('/').any(|part| part == "..") {
        return Err(StatusCode::NOT_FOUND);
    }
    let file = far.folder.join(name);
    let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    match read {
        Ok(Ok(contents)) => Ok(contents),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, delay] = &arguments[..] else {
        return Err("usage: slow_cache FOLDER MILLISECONDS".into());
    };
    let far = Far {
        folder: folder.into(),
        delay: Duration::from_millis(delay.parse()?),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let router = Router::new().fallback(file).with_state(far);
    axum::serve(listener, router).await?;
    Ok(())
}
