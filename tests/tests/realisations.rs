//! Floating outputs in binary caches: the realisations that are accepted, and the forms in which
//! they are stored.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{Instantiated, OutputName};
use nix_compat::nixhash::{HashAlgo, SelfReferenceHasher};
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{PathReferences, StoreDir, StorePath, content_addressed_path};
use tvix_build_api::{BuildContext, BuildRequest, CheckOutcome, check};
use tvix_coordinator::{BuildEvent, BuildPolicy, Coordinator, Options, Report};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::verify::digest;
use tvix_store_api::{PathInfo, Store as _, StoreExt as _};
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::session::run;

fn key() -> SigningKey {
    SigningKey::from_seed("ours-1", &[3; 32]).unwrap()
}

fn floating(name: &str) -> Instantiated {
    let builder = shell(name, "echo $name $out > $out");
    instantiate(builder.floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256))
}

fn keys(made: &Instantiated) -> Vec<DrvKey> {
    made.derivation
        .realisation_keys(&StoreDir::default(), &made.path)
}

async fn build(
    world: &LocalWorld,
    all: &[Instantiated],
    caches: &[BinaryCache],
) -> (Vec<BuildEvent>, Report) {
    let mut evaluator = InMemoryEvaluator::new();
    for made in all {
        evaluator = evaluator.root(made.derivation.name.as_str(), made);
    }
    let mut coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(Arc::new(world.builder()))
        .with_options(Options::default().with_policy(BuildPolicy::Demand));
    for cache in caches {
        coordinator = coordinator.with_substituter(Arc::new(cache.clone()), 0);
    }
    let names = all.iter().map(|made| made.derivation.name.as_str());
    let (events, report) = run(&coordinator, EvalRequest::attrs(names)).await;
    assert!(report.is_success(), "{report:#?}");
    (events, report)
}

async fn output(world: &LocalWorld, made: &Instantiated) -> StorePath {
    let name = OutputName::out();
    let found = world.store.realisation_of(keys(made), &name);
    found.await.unwrap().unwrap().out_path
}

/// A writable cache next to a world, with the outputs of these derivations.
async fn cache(world: &LocalWorld, all: &[Instantiated], keys: Vec<SigningKey>) -> BinaryCache {
    let uri = format!("file://{}", world.beside("cache").display());
    fs::create_dir_all(world.beside("cache")).unwrap();
    let options = BinaryCacheOptions::new(uri.parse().unwrap()).unwrap();
    let options = options
        .with_create(StoreDir::default())
        .with_require_signatures(false)
        .with_signing_keys(keys);
    let cache = BinaryCache::open(options).await.unwrap();
    for made in all {
        let path = output(world, made).await;
        world.store.copy_closure(&cache, &[path]).await.unwrap();
    }
    cache
}

async fn reader(world: &LocalWorld) -> BinaryCache {
    let uri = format!("file://{}", world.beside("cache").display());
    let options = BinaryCacheOptions::new(uri.parse().unwrap()).unwrap();
    let opened = BinaryCache::open(options.with_trusted_keys([key().verifying_key()]));
    opened.await.unwrap()
}

fn refusals(events: &[BuildEvent]) -> Vec<(&str, &str)> {
    let refusals = events.iter().filter_map(|event| match event {
        BuildEvent::RealisationRefused {
            substituter,
            message,
        } => Some((&**substituter, message.as_str())),
        _ => None,
    });
    refusals.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_realisations_are_mentioned_once() {
    let all = [floating("one"), floating("two"), floating("three")];
    let origin = LocalWorld::new().await;
    build(&origin, &all, &[]).await;
    for signed in [false, true] {
        let keys = signed.then(key).into_iter().collect();
        let cache = cache(&origin, &all, keys).await;
        let mut paths = Vec::new();
        for made in &all {
            paths.push(output(&origin, made).await);
        }
        for realisation in origin.store.realisations_of(paths).await.unwrap() {
            cache.add_realisation(&realisation).await.unwrap();
        }
        let world = LocalWorld::new().await;
        let reader = reader(&origin).await;
        let (events, report) = build(&world, &all, std::slice::from_ref(&reader)).await;
        let refusals = refusals(&events);
        if signed {
            assert_eq!(refusals, []);
            assert_eq!((report.counts.built, report.counts.substituted), (0, 3));
        } else {
            let [(substituter, message)] = refusals[..] else {
                panic!("{refusals:?}");
            };
            assert_eq!(substituter, reader.uri().to_string());
            assert!(message.contains("signature of a trusted key"), "{message}");
            assert_eq!((report.counts.built, report.counts.substituted), (3, 0));
        }
        // Both versions of Nix find them, regardless of their origin.
        for made in &all {
            for drv in keys_of_both_forms(made) {
                let id = DrvOutput {
                    drv,
                    output: OutputName::out(),
                };
                let found = world.store.realisation(&id).await;
                let found = found.unwrap().unwrap();
                assert_eq!(found.out_path, output(&origin, made).await);
            }
        }
    }
}

fn keys_of_both_forms(made: &Instantiated) -> Vec<DrvKey> {
    let keys = keys(made);
    assert!(matches!(keys[..], [DrvKey::Path(_), DrvKey::HashModulo(_)]));
    keys
}

/// A realisation of a derivation with inputs lists the outputs of these inputs. It is rejected if
/// it contradicts the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_realisations_that_lie() {
    let all = [floating("one")];
    let input = DrvOutput::by_hash([1; 32], OutputName::out());
    let hash = keys(&all[0])[1].clone();
    for lies in [true, false] {
        let origin = LocalWorld::new().await;
        build(&origin, &all, &[]).await;
        let path = output(&origin, &all[0]).await;
        let cache = cache(&origin, &all, vec![key()]).await;
        let world = LocalWorld::new().await;
        let name = "input".parse().unwrap();
        let known = world.store.add_text(name, b"known", Default::default());
        let known = known.await.unwrap();
        let realisation = Realisation::new(input.clone(), known.clone());
        world.store.add_realisation(&realisation).await.unwrap();
        let id = DrvOutput {
            drv: hash.clone(),
            output: OutputName::out(),
        };
        let mut deep = Realisation::new(id, path.clone());
        let claimed = if lies { path.clone() } else { known };
        deep.dependent_realisations.insert(input.clone(), claimed);
        cache.add_realisation(&deep).await.unwrap();
        let (events, report) = build(&world, &all, &[reader(&origin).await]).await;
        let refusals = refusals(&events);
        if lies {
            assert_eq!(refusals.len(), 1, "{refusals:?}");
            assert!(refusals[0].1.contains("was made with"), "{refusals:?}");
            assert_eq!(report.counts.built, 1);
        } else {
            assert_eq!(refusals, []);
            assert_eq!(report.counts.substituted, 1);
        }
    }
}

/// Only the form of Nix since 2.35, for derivations with inputs: it leads from one resolved
/// derivation to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_of_resolved_derivations() {
    let input = floating("input");
    let builder = shell("top", "read name path < $input; echo $name > $out")
        .input_env("input", &input, "out")
        .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256);
    let all = [input, instantiate(builder)];
    let origin = LocalWorld::new().await;
    let (events, _) = build(&origin, &all, &[]).await;
    let resolved = events.iter().find_map(|event| match event {
        BuildEvent::Resolved { resolved, .. } => Some(resolved.clone()),
        _ => None,
    });
    let resolved = resolved.unwrap();
    let id = DrvOutput::by_path(resolved, OutputName::out());
    let top = origin.store.realisation(&id).await.unwrap().unwrap();
    let cache = cache(&origin, &all[..1], vec![key()]).await;
    origin
        .store
        .copy_closure(&cache, std::slice::from_ref(&top.out_path))
        .await
        .unwrap();
    let leaf = DrvOutput::by_path(all[0].path.clone(), OutputName::out());
    let leaf = origin.store.realisation(&leaf).await.unwrap().unwrap();
    for realisation in [&leaf, &top] {
        cache.add_realisation(realisation).await.unwrap();
    }
    assert!(!origin.beside("cache/realisations").exists());
    let world = LocalWorld::new().await;
    let (_, report) = build(&world, &all, &[reader(&origin).await]).await;
    assert_eq!((report.counts.built, report.counts.substituted), (0, 2));
    let found = world.store.realisation(&id).await.unwrap().unwrap();
    assert_eq!(found.out_path, top.out_path);
}

/// The path that Nix 2.17 to 2.34 compute for a NAR with self-references, which differs from the
/// path here.
async fn as_nix_2_34_has_it(
    origin: &LocalWorld,
    made: &Instantiated,
    change: impl FnOnce(&mut String),
) -> (PathInfo, Bytes) {
    let path = output(origin, made).await;
    let mut info = PathInfo::clone(&*origin.store.require(&path).await.unwrap());
    let chunks = origin.store.nar(&path).await.unwrap();
    let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
    // Its numbers are small, so that all of it is UTF-8.
    let mut nar = String::from_utf8(chunks.concat()).unwrap();
    change(&mut nar);
    let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path);
    hasher.update(nar.as_bytes());
    let address = ContentAddress {
        method: ContentAddressMethod::NixArchive,
        hash: hasher.finish_both().without_offsets,
    };
    let references = PathReferences {
        to_self: true,
        ..Default::default()
    };
    let dir = StoreDir::default();
    let theirs = content_addressed_path(&dir, path.name().clone(), &address, &references).unwrap();
    assert_ne!(theirs, path);
    let text = nar.replace(&path.hash_part(), &theirs.hash_part());
    info.path = theirs.clone();
    info.references = [theirs].into();
    info.ca = Some(address);
    info.nar_hash = digest(text.as_bytes());
    (info, text.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checking_what_nix_2_34_has_built() {
    let made = floating("one");
    let origin = LocalWorld::new().await;
    build(&origin, std::slice::from_ref(&made), &[]).await;
    for same in [true, false] {
        let change = |nar: &mut String| {
            assert!(nar.contains("one /nix"), "{nar}");
            if !same {
                *nar = nar.replace("one /nix", "ONE /nix");
            }
        };
        let (info, nar) = as_nix_2_34_has_it(&origin, &made, change).await;
        let world = LocalWorld::new().await;
        let path = info.path.clone();
        let stream = futures::stream::iter([Ok(nar)]).boxed();
        world.store.add(info, stream).await.unwrap();
        for drv in keys(&made) {
            let id = DrvOutput {
                drv,
                output: OutputName::out(),
            };
            let realisation = Realisation::new(id, path.clone());
            world.store.add_realisation(&realisation).await.unwrap();
        }
        // It is substituted, not built.
        let (_, report) = build(&world, std::slice::from_ref(&made), &[]).await;
        assert_eq!(report.counts.built, 0);
        let request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        let context = BuildContext::new(Arc::new(world.store.clone()));
        let outcome = check(&world.builder(), request, context, None)
            .await
            .unwrap();
        match (same, outcome) {
            (true, CheckOutcome::Same) | (false, CheckOutcome::Differs(_)) => {}
            (_, outcome) => panic!("{same}: {outcome:?}"),
        }
    }
}
