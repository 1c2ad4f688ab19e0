//! Throughput of the local store: small additions one by one and concurrently, outputs imported in
//! place, look-ups, and a large file compared with hashing alone.
//!
//! `cargo run --release -p tvix-benches --bin store_rate [paths] [MiB]`

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, NixHasher};
use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::local_fs::{Durability, LocalStore, LocalStoreOptions, OutputTree};
use tvix_store_api::{MemoryStore, Store, StoreExt as _};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let paths: usize = args.next().map_or(Ok(5_000), |text| text.parse())?;
    let mebibytes: usize = args.next().map_or(Ok(1_024), |text| text.parse())?;
    let directory = tempfile::tempdir()?;

    let memory = MemoryStore::new(StoreDir::default());
    report(
        "memory, add, one at a time",
        paths,
        one_at_a_time(&memory, paths).await?,
    );
    for durability in [Durability::Relaxed, Durability::Full] {
        let root = directory.path().join(format!("{durability:?}"));
        let options = LocalStoreOptions::new(root).with_durability(durability);
        let store = LocalStore::open(options).await?;
        let count = match durability {
            Durability::Full => paths / 20,
            _ => paths,
        };
        let label = |what: &str| format!("local, {durability:?}, {what}");
        let elapsed = one_at_a_time(&store, count).await?;
        report(&label("add, one at a time"), count, elapsed);
        report(
            &label("add, 64 at once"),
            count,
            at_once(&store, count).await?,
        );
        report(
            &label("import of one-file outputs"),
            count,
            import(&store, count).await?,
        );
        look_up(&store).await?;
    }
    large(directory.path(), mebibytes).await
}

fn report(what: &str, count: usize, elapsed: Duration) {
    let each = elapsed / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let rate = count as f64 / elapsed.as_secs_f64();
    println!("{what}: {each:?} each, {rate:.0}/s");
}

async fn one_at_a_time(store: &dyn Store, count: usize) -> Result<Duration> {
    let start = Instant::now();
    for number in 0..count {
        let text = format!("one {number}");
        store
            .add_text("text".parse()?, text.as_bytes(), SortedSet::new())
            .await?;
    }
    Ok(start.elapsed())
}

async fn at_once(store: &LocalStore, count: usize) -> Result<Duration> {
    let start = Instant::now();
    stream::iter((0..count).map(Ok::<_, Box<dyn std::error::Error>>))
        .try_for_each_concurrent(64, |number| async move {
            let text = format!("at once {number}");
            store
                .add_text("text".parse()?, text.as_bytes(), SortedSet::new())
                .await?;
            Ok(())
        })
        .await?;
    Ok(start.elapsed())
}

async fn import(store: &LocalStore, count: usize) -> Result<Duration> {
    let scratch = store.scratch()?;
    fs::create_dir(scratch.path())?;
    let mut elapsed = Duration::ZERO;
    for number in 0..count {
        let place = scratch.path().join("out");
        fs::write(&place, format!("output {number}"))?;
        let mut digest = [7; 20];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        let owner = fs::symlink_metadata(&place)?.uid();
        let output = OutputTree::new(place, owner, StorePath::new(digest, "out".parse()?));
        let start = Instant::now();
        store.import_outputs(vec![output], Vec::new()).await?;
        elapsed += start.elapsed();
    }
    Ok(elapsed)
}

async fn look_up(store: &LocalStore) -> Result<()> {
    let paths = store.all_valid_paths().await?;
    let start = Instant::now();
    store.valid_paths(&paths).await?;
    report("  look-up in a batch", paths.len(), start.elapsed());
    let some = &paths[..paths.len().min(2_000)];
    let start = Instant::now();
    for path in some {
        store.require(path).await?;
    }
    report("  path info, one at a time", some.len(), start.elapsed());
    Ok(())
}

/// One file: hashed, hashed and scanned, then through all ways into and out of the store.
async fn large(directory: &std::path::Path, mebibytes: usize) -> Result<()> {
    let rate = |what: &str, elapsed: Duration| {
        println!(
            "{what}: {:.0} MiB/s",
            mebibytes as f64 / elapsed.as_secs_f64()
        );
    };
    let mut state = 1u32;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(1 << 20)
    .collect();
    let start = Instant::now();
    let mut hasher = NixHasher::new(HashAlgo::Sha256);
    (0..mebibytes).for_each(|_| hasher.update(&block));
    let plain = hasher.finish();
    rate("SHA-256 alone", start.elapsed());
    let candidates: Vec<_> = (0..100u8)
        .map(|seed| Ok(StorePath::new([seed; 20], "x".parse()?)))
        .collect::<Result<_>>()?;
    let text: Vec<u8> = block.iter().map(|byte| b' ' + byte % 95).collect();
    for (what, bytes) in [("random bytes", &block), ("printable bytes", &text)] {
        let mut scanner = ReferenceScanner::new(&candidates);
        let start = Instant::now();
        (0..mebibytes).for_each(|_| scanner.update(bytes));
        rate(&format!("reference scan alone, {what}"), start.elapsed());
    }

    let file = directory.join("large");
    let mut written = fs::File::create(&file)?;
    for _ in 0..mebibytes {
        written.write_all(&block)?;
    }
    drop(written);
    let store = LocalStore::open(LocalStoreOptions::new(directory.join("large-root"))).await?;
    let start = Instant::now();
    let method = ContentAddressMethod::NixArchive;
    let path = store.add_tree(&file, "large".parse()?, method).await?;
    rate("add_tree (reads and hashes twice, writes)", start.elapsed());
    let start = Instant::now();
    store.verify(&path).await?;
    rate("verify (reads and hashes)", start.elapsed());

    let info = store.require(&path).await?;
    let shared = Bytes::from(block);
    let chunks = (0..mebibytes).map(|_| Ok(shared.clone()));
    let mut head = Vec::new();
    let mut encoder = nix_compat::nar::Encoder::new();
    let size = (mebibytes << 20) as u64;
    encoder.regular_start(false, size, &mut head)?;
    encoder.contents(size)?;
    let mut tail = Vec::new();
    encoder.regular_end(&mut tail)?;
    let chunks: Vec<_> = std::iter::once(Ok(Bytes::from(head)))
        .chain(chunks)
        .chain(std::iter::once(Ok(Bytes::from(tail))))
        .collect();
    let copy = tvix_store_api::PathInfo::new(
        StorePath::new([9; 20], "copy".parse()?),
        info.nar_hash,
        info.nar_size,
    );
    let start = Instant::now();
    store.add(copy, stream::iter(chunks).boxed()).await?;
    rate("add of a NAR in memory (hashes, writes)", start.elapsed());

    let scratch = store.scratch()?;
    fs::rename(&file, scratch.path())?;
    let output = OutputTree::new(
        scratch.path().to_owned(),
        fs::symlink_metadata(scratch.path())?.uid(),
        StorePath::new([10; 20], "output".parse()?),
    );
    let start = Instant::now();
    store.import_outputs(vec![output], candidates).await?;
    rate(
        "import of an output (reads, hashes, scans)",
        start.elapsed(),
    );
    println!("({plain})");
    Ok(())
}
