//! Clients that send nonsense, stop in the middle, or flood the daemon. Others are served all the same.

use std::time::Duration;

use nix_compat::store_path::StoreDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tvix_daemon::Access;
use tvix_store_api::Store as _;
use tvix_worker_protocol::{
    ClientHandshake, Context, Decoder, LogMessage, Operation, QueryPathInfo, RemoteError,
};

use super::world::World;

/// A connection after its handshake.
pub async fn connected(world: &World) -> (UnixStream, Context) {
    let mut stream = world.connect().await;
    let mut handshake = ClientHandshake::new(StoreDir::default());
    loop {
        stream.write_all(&handshake.take_output()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0);
        let (used, session) = handshake.feed(&bytes[..read]).unwrap();
        if let Some(session) = session {
            assert_eq!(used, read);
            return (stream, session.context);
        }
    }
}

/// The error that the daemon answers with before it closes the connection.
async fn refused(mut stream: UnixStream, context: &Context) -> RemoteError {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let (_, message) = Decoder::<LogMessage>::new().feed(&bytes, context).unwrap();
    match message {
        Some(LogMessage::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn still_serves(world: &World) {
    let store = world.open().await;
    let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse().unwrap();
    assert!(store.path_info(&path).await.unwrap().is_none());
}

fn number(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused() {
    let world = World::local().await;
    for (operation, length, expected) in [
        (9999, 0, "invalid operation 9999"),
        (u64::MAX, 0, "invalid operation"),
        (Operation::IsValidPath.number(), u64::MAX, "longer than"),
        (
            Operation::QueryValidPaths.number(),
            u64::MAX / 8,
            "longer than",
        ),
        (Operation::IsValidPath.number(), 1 << 40, "longer than"),
        (
            Operation::IsValidPath.number(),
            0,
            "is not in the Nix store",
        ),
        (
            Operation::AddMultipleToStore.number(),
            7,
            "not a valid boolean",
        ),
    ] {
        let (mut stream, context) = connected(&world).await;
        let bytes = [number(operation), number(length), number(0)].concat();
        stream.write_all(&bytes).await.unwrap();
        let error = refused(stream, &context).await.to_string();
        assert!(error.contains(expected), "{operation}: {error}");
    }
    still_serves(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_at_every_byte() {
    let world = World::local().await;
    let (_, context) = connected(&world).await;
    let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse().unwrap();
    let mut request = Vec::new();
    context
        .encode_call(&QueryPathInfo { path }, &mut request)
        .unwrap();
    // An addition with a frame that is cut off.
    let mut addition = number(Operation::AddMultipleToStore.number()).to_vec();
    for word in [0, 0, 16, 1, 5] {
        addition.extend(number(word));
    }
    for whole in [request, addition] {
        for end in (0..whole.len()).step_by(3) {
            let (mut stream, _) = connected(&world).await;
            stream.write_all(&whole[..end]).await.unwrap();
            drop(stream);
        }
    }
    for end in 0..24 {
        let mut stream = world.connect().await;
        let greeting = [number(0x6e69_7863), number(0x126), number(0)].concat();
        stream.write_all(&greeting[..end]).await.unwrap();
    }
    still_serves(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let world = World::local().await;
    let (mut stream, context) = connected(&world).await;
    let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse().unwrap();
    let mut request = Vec::new();
    context
        .encode_call(&QueryPathInfo { path }, &mut request)
        .unwrap();
    let flood = request.repeat(1000);
    // Until the daemon reads no more.
    while tokio::time::timeout(Duration::from_millis(300), stream.write_all(&flood))
        .await
        .is_ok()
    {}
    still_serves(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_ends() {
    let world =
        World::local_with(|options| options.with_handshake_timeout(Duration::from_millis(50)))
            .await;
    let mut stream = world.connect().await;
    stream.write_all(&number(0x6e69_7863)).await.unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_idle_connections() {
    let world = World::local().await;
    let mut idle = Vec::new();
    // Both ends are in this process, which may have few file descriptors.
    for _ in 0..200 {
        idle.push(connected(&world).await);
    }
    still_serves(&world).await;
}

/// Whether the daemon answers on a new connection, which stays open.
async fn greeted(world: &World) -> Option<UnixStream> {
    let mut stream = world.connect().await;
    let greeting = [number(0x6e69_7863), number(0x126)].concat();
    // The daemon may have closed it by now.
    let _ = stream.write_all(&greeting).await;
    let mut bytes = [0; 16];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_user_has_a_quarter_of_the_connections() {
    let limited = |trusted: &'static str| {
        World::local_with(move |options| {
            let access = Access::default().with_trusted([trusted]);
            options.with_access(access).with_max_connections(8)
        })
    };
    let world = limited("nonsense").await;
    let first = greeted(&world).await.unwrap();
    let _second = greeted(&world).await.unwrap();
    for _ in 0..20 {
        assert!(greeted(&world).await.is_none());
    }
    drop(first);
    // Until the daemon has noticed.
    while greeted(&world).await.is_none() {
        tokio::task::yield_now().await;
    }
    let world = limited("*").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(greeted(&world).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_all_connections() {
    let world = World::local().await;
    let (mut stream, _) = connected(&world).await;
    world.shutdown.cancel();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(bytes.is_empty());
}
