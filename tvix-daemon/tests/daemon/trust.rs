//! What untrusted clients may not do.

use futures::{StreamExt as _, stream};
use nix_compat::nar::Writer;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::StoreDir;
use tvix_daemon::Access;
use tvix_store_api::verify::digest;
use tvix_store_api::{PathInfo, Store, StoreError, StoreExt as _};

use super::world::World;

fn nar() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, b"contents").unwrap();
    writer.finish().unwrap()
}

fn info(name: &str) -> PathInfo {
    let path = format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
    let nar = nar();
    PathInfo::new(path.parse().unwrap(), digest(&nar), nar.len() as u64)
}

async fn add(store: &dyn Store, info: PathInfo) -> Result<(), StoreError> {
    store
        .add(info, stream::iter([Ok(nar().into())]).boxed())
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_paths_are_refused() {
    let key = SigningKey::generate("test-1").unwrap();
    let world = World::local_with(|options| {
        options
            .with_access(Access::default().with_trusted(["nonsense"]))
            .with_trusted_keys(vec![key.verifying_key()])
    })
    .await;
    let store = world.open().await;
    let error = add(&store, info("unsigned")).await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error:?}");
    // The connection goes on.
    let mut signed = info("signed");
    signed.sign(&StoreDir::default(), &key);
    signed.ultimate = true;
    add(&store, signed.clone()).await.unwrap();
    let found = store.path_info(&signed.path).await.unwrap().unwrap();
    assert!(!found.ultimate);
    let mut other = info("other");
    other.signatures = signed.signatures;
    assert!(add(&store, other).await.is_err());
    // Content-addressed ones need no signature.
    store
        .add_text("text".parse().unwrap(), b"text", Default::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_are_not_allowed_get_no_connection() {
    let world = World::local_with(|options| {
        options.with_access(
            Access::default()
                .with_trusted(["nonsense"])
                .with_allowed(["@nonsense"]),
        )
    })
    .await;
    let mut stream = world.connect().await;
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
    assert_eq!(read.unwrap_or(0), 0);
}
