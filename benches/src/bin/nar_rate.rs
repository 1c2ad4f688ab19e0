//! Throughput of packing and hashing trees, compared with hashing alone.
//!
//!     cargo run --release -p tvix-benches --bin nar_rate
//!
//! The arguments are the trees to measure. Without arguments, two trees are created in the
//! temporary directory: one of large files, one of 20,000 small ones. Prints the best of several
//! alternating rounds for each, because other load on the machine disturbs single rounds.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use nix_compat::nixhash::HashAlgo;
use ring::digest::{Context, SHA256, digest};
use tvix_tree::{RestoreOptions, dump_path, hash_path, restore};

const ROUNDS: usize = 7;

struct Hasher(Context);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trees: Vec<_> = std::env::args_os().skip(1).collect();
    for tree in &trees {
        measure(&tree.to_string_lossy(), Path::new(tree), None)?;
    }
    if !trees.is_empty() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let large = folder.path().join("large");
    fs::create_dir(&large)?;
    for file in 0..8u32 {
        fs::write(large.join(file.to_string()), noise(64 << 20, file))?;
    }
    measure("8 files of 64 MiB", &large, Some(folder.path()))?;
    let small = folder.path().join("small");
    for directory in 0..200u32 {
        let path = small.join(directory.to_string());
        fs::create_dir_all(&path)?;
        for file in 0..100u32 {
            // 4 KiB on average, as in source trees.
            let len = 64 + (directory * 100 + file) * 7919 % 8064;
            fs::write(path.join(file.to_string()), noise(len as usize, file))?;
        }
    }
    measure("20,000 files of 4 KiB", &small, Some(folder.path()))
}

fn measure(
    what: &str,
    tree: &Path,
    scratch: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut nar = Vec::new();
    dump_path(tree, &mut nar)?;
    let bytes = nar.len() as f64;
    let rate = |start: Instant| bytes / start.elapsed().as_secs_f64() / 1e9;
    let (mut plain, mut pack, mut hashed, mut beside, mut unpack) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for round in 0..ROUNDS {
        let start = Instant::now();
        let expected = digest(&SHA256, black_box(&nar));
        plain = plain.max(rate(start));

        let start = Instant::now();
        dump_path(tree, io::sink())?;
        pack = pack.max(rate(start));

        let start = Instant::now();
        let mut hasher = Hasher(Context::new(&SHA256));
        dump_path(tree, &mut hasher)?;
        assert_eq!(hasher.0.finish().as_ref(), expected.as_ref());
        hashed = hashed.max(rate(start));

        let start = Instant::now();
        let (hash, _) = hash_path(tree, HashAlgo::Sha256)?;
        assert_eq!(hash.digest_bytes(), expected.as_ref());
        beside = beside.max(rate(start));

        let Some(scratch) = scratch else { continue };
        let dest = scratch.join(format!("again{round}"));
        let start = Instant::now();
        restore(&nar[..], &dest, RestoreOptions::default())?;
        unpack = unpack.max(rate(start));
        fs::remove_dir_all(dest)?;
    }
    println!("{what}: {:.0} MB as a NAR", bytes / 1e6);
    println!("  SHA-256 of bytes in memory  {plain:.2} GB/s");
    println!("  dump_path to nowhere        {pack:.2} GB/s");
    println!(
        "  dump_path into SHA-256        {hashed:.2} GB/s, {:.0} %",
        hashed / plain * 100.0
    );
    println!(
        "  hash_path                   {beside:.2} GB/s, {:.0} %",
        beside / plain * 100.0
    );
    if scratch.is_some() {
        println!("  restore                     {unpack:.2} GB/s");
    }
    Ok(())
}

/// Pseudorandom bytes, so that no file system compresses them.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(len.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}
