//! Derivations whose output paths do not follow from them are refused, whoever adds them.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{Derivation, DerivationBuilder, Instantiated, Output};
use nix_compat::nixhash::HashAlgo;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::io::AsyncWriteExt as _;
use tvix_store_api::{MemoryStore, Store, StoreError, StoreExt as _, VerifiedObject};
use tvix_worker_protocol::{AddToStore, Addressing, Decoder, LogMessage, encode_end, encode_frame};

use super::hostile::connected;
use super::world::World;

const CLAIMED: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la-victim";

fn instantiate(name: &str, inputs: &[&Instantiated]) -> Instantiated {
    let builder = DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
    let builder = inputs
        .iter()
        .fold(builder, |builder, input| builder.input(input, "out"));
    builder.instantiate(&StoreDir::default()).unwrap()
}

/// The derivation with an output of another one, as consistent as it can be.
fn forged(drv: &Instantiated) -> Derivation {
    let mut derivation = Derivation::clone(&drv.derivation);
    let claimed: StorePath = CLAIMED.parse().unwrap();
    let value = StoreDir::default().display(&claimed).to_string();
    let out = "out".parse().unwrap();
    derivation
        .outputs
        .insert(out, Output::InputAddressed(claimed));
    derivation.env.insert("out".into(), value.into());
    derivation
}

fn object(derivation: &Derivation) -> VerifiedObject {
    let dir = StoreDir::default();
    let (path, text) = derivation.path_and_aterm(&dir).unwrap();
    VerifiedObject::text(&dir, path.name().clone(), &text, derivation.references())
}

fn assert_refused(result: Result<(), StoreError>) {
    let mut text = String::new();
    let error = result.unwrap_err();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains("has incorrect output"), "{text}");
    assert!(text.contains(CLAIMED), "{text}");
}

async fn refuses(world: World) {
    let store = world.open().await;
    let input = instantiate("input", &[]);
    let user = instantiate("user", &[&input]);
    let liar = object(&forged(&user));
    // With its input, in one stream.
    let both = vec![object(&input.derivation), liar.clone()];
    let added = store.add_many(both).await;
    assert!(added.into_iter().any(|it| it.is_err()));
    assert!(!store.is_valid(liar.path()).await.unwrap());
    // Alone, with an input that is there.
    for added in store.add_many(vec![object(&input.derivation)]).await {
        added.unwrap();
    }
    let (info, nar) = liar.clone().into_parts();
    let nar = stream::iter([Ok::<Bytes, StoreError>(nar)]).boxed();
    assert_refused(store.add(info, nar).await);
    for added in store.add_many(vec![liar.clone()]).await {
        assert_refused(added);
    }
    // A large one.
    let mut large = Derivation::clone(&user.derivation);
    large.env.insert("large".into(), "x".repeat(400_000).into());
    for added in store.add_many(vec![object(&large)]).await {
        let text = format!("{:?}", added.unwrap_err());
        assert!(text.contains("has incorrect output"), "{text}");
    }
    // Something else with such a name.
    let (dir, name) = (StoreDir::default(), "nonsense.drv".parse().unwrap());
    let nonsense = VerifiedObject::text(&dir, name, b"nonsense", Default::default());
    for added in store.add_many(vec![nonsense]).await {
        let text = format!("{:?}", added.unwrap_err());
        assert!(text.contains("error parsing derivation"), "{text}");
    }
    // `AddToStore`: the daemon computes the path.
    for (derivation, refused) in [
        (forged(&user), true),
        (Derivation::clone(&user.derivation), false),
    ] {
        let answer = add_to_store(&world, &derivation).await;
        match answer {
            LogMessage::Error(error) => {
                let text = error.to_string();
                assert!(refused && text.contains("has incorrect output"), "{text}");
            }
            LogMessage::Last => assert!(!refused),
            other => panic!("{other:?}"),
        }
    }
    assert!(!store.is_valid(liar.path()).await.unwrap());
    assert!(store.is_valid(&user.path).await.unwrap());
}

async fn add_to_store(world: &World, derivation: &Derivation) -> LogMessage {
    let (mut stream, context) = connected(world).await;
    let (path, text) = derivation.path_and_aterm(context.store_dir()).unwrap();
    let mut request = Vec::new();
    let call = AddToStore {
        name: path.name().clone(),
        addressing: Addressing {
            method: ContentAddressMethod::Text,
            algo: HashAlgo::Sha256,
        },
        references: derivation.references(),
        repair: false,
    };
    context.encode_call(&call, &mut request).unwrap();
    encode_frame(text.len(), &mut request);
    request.extend_from_slice(&text);
    encode_end(&mut request);
    stream.write_all(&request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
    let mut decoder = Decoder::<LogMessage>::new();
    let (_, message) = decoder.feed(&bytes, &context).unwrap();
    message.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incorrect_outputs_are_refused() {
    refuses(World::local().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incorrect_outputs_are_refused_in_memory() {
    refuses(World::memory(MemoryStore::new(Default::default()), |it| it)).await;
}
