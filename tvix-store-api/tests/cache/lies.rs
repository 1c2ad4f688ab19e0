//! Corrupt and malicious caches. Each must cause an error that names the cache and the path, and
//! leave nothing in the destination.

use std::os::unix::fs::symlink;

use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_store_api::cache::BinaryCache;
use tvix_store_api::{MemoryStore, PathInfo, Store as _, StoreError, StoreExt as _};

use crate::{COMPRESSIONS, add, contents, file_uri, object, open, path};

/// A cache in a directory with one path, and its narinfo.
struct Liar {
    directory: TempDir,
    info: PathInfo,
    text: String,
}

impl Liar {
    async fn new(compression: &str) -> Self {
        Self::with(compression, &contents(10_000)).await
    }

    async fn with(compression: &str, contents: &[u8]) -> Self {
        let directory = TempDir::new().unwrap();
        let uri = format!("{}?compression={compression}", file_uri(&directory));
        let (info, nar) = object("path", contents);
        add(&open(&uri).await, &info, &nar).await;
        let mut liar = Self {
            directory,
            info,
            text: String::new(),
        };
        liar.text = std::fs::read_to_string(liar.file()).unwrap();
        liar
    }

    fn file(&self) -> std::path::PathBuf {
        let name = format!("{}.narinfo", self.info.path.hash_part());
        self.directory.path().join(name)
    }

    fn field(&self, name: &str) -> String {
        let line = self.text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(": ").to_owned()
    }

    fn say(&self, text: impl AsRef<[u8]>) {
        std::fs::write(self.file(), text).unwrap();
    }

    fn replace(&self, from: &str, to: &str) {
        assert!(
            self.text.contains(from),
            "{from:?} is not in {:?}",
            self.text
        );
        self.say(self.text.replace(from, to));
    }

    async fn cache(&self) -> BinaryCache {
        open(&file_uri(&self.directory)).await
    }

    /// Copying fails, and the destination has no path.
    async fn expect(&self, what: &str) -> StoreError {
        let cache = self.cache().await;
        let store = MemoryStore::new(StoreDir::default());
        let paths = [self.info.path.clone()];
        let error = cache.copy_closure(&store, &paths).await;
        let error = error.expect_err(what);
        let text = error.to_string();
        assert!(
            text.contains("file://"),
            "{what}: does not name the cache: {text}"
        );
        let name = self.info.path.to_string();
        assert!(
            text.contains(&name),
            "{what}: does not name the path: {text}"
        );
        assert!(!error.is_retryable(), "{what}: {error:?}");
        assert!(store.is_empty(), "{what}: something came");
        error
    }

    async fn expect_bad_info(&self, what: &str) {
        let error = self.expect(what).await;
        assert!(
            matches!(error, StoreError::BadInfo { .. }),
            "{what}: {error:?}"
        );
        let cache = self.cache().await;
        let valid = cache
            .valid_paths(std::slice::from_ref(&self.info.path))
            .await;
        assert!(valid.unwrap().is_empty(), "{what}");
    }

    async fn expect_more(&self, what: &str) {
        let error = self.expect(what).await;
        let text = format!("{error:?}");
        assert!(text.contains("more than"), "{what}: {text}");
    }

    async fn expect_lie(&self, what: &str) -> StoreError {
        match self.expect(what).await {
            StoreError::Corrupt { source, .. } => *source,
            error => panic!("{what}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn descriptions_that_make_no_sense() {
    let liar = Liar::new("xz").await;
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        let value = liar.field(field);
        let line = format!("{field}: {value}\n");
        liar.replace(&line, "");
        liar.expect_bad_info(&format!("without {field}")).await;
        liar.replace(&line, &format!("{line}{line}"));
        liar.expect_bad_info(&format!("{field} twice")).await;
        liar.replace(&line, &format!("{field}: \n"));
        liar.expect_bad_info(&format!("{field} empty")).await;
        liar.replace(&line, &format!("{field} {value}\n"));
        liar.expect_bad_info(&format!("{field} without a colon"))
            .await;
    }
    let size = format!("NarSize: {}", liar.info.nar_size);
    liar.replace(&size, "NarSize: 0");
    liar.expect_bad_info("size zero").await;
    liar.replace(&size, "NarSize: 18446744073709551616");
    liar.expect_bad_info("size 2^64").await;
    liar.replace("NarHash: sha256:", "NarHash: md5:");
    liar.expect_bad_info("a bad hash").await;
    liar.replace("References: ", "References: ../../etc/passwd");
    liar.expect_bad_info("a bad reference").await;
    liar.replace("Compression: xz", "Compression: rot13");
    liar.expect_bad_info("an unknown compression").await;
    for nothing in ["", "\n", "\0", "<html>404</html>", "StorePath"] {
        liar.say(nothing);
        liar.expect_bad_info(&format!("{nothing:?}")).await;
    }
    liar.say(b"StorePath: \xff\xfe\n");
    liar.expect_bad_info("no UTF-8").await;
    for cut in 0..liar.text.len() - 1 {
        liar.say(&liar.text[..cut]);
        // The last fields may be missing if the text ends with a complete line.
        if !liar.text[..cut].ends_with('\n') {
            liar.expect_bad_info(&format!("cut at {cut}")).await;
        }
    }
}

#[tokio::test]
async fn a_description_of_another_path() {
    let liar = Liar::new("xz").await;
    let other = path("other");
    let own = liar.info.path.to_string();
    liar.replace(&own, &other.to_string());
    liar.expect_bad_info("another path").await;
    // The same hash part with another name.
    liar.replace(&own, &format!("{}-evil", liar.info.path.hash_part()));
    liar.expect_bad_info("another name").await;
    // A look-up by hash part returns the name in the narinfo.
    let cache = liar.cache().await;
    let found = cache.find(liar.info.path.digest()).await.unwrap().unwrap();
    assert_eq!(found.path.name().as_str(), "evil");
    liar.replace(&own, &other.to_string());
    assert!(
        liar.cache()
            .await
            .find(liar.info.path.digest())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_description_without_end() {
    let liar = Liar::new("xz").await;
    liar.say(format!("{}{}", liar.text, "X: y\n".repeat(1_000_000)));
    liar.expect_more("5 MB").await;
    let cache = liar.cache().await;
    let error = cache.find(liar.info.path.digest()).await.unwrap_err();
    assert!(format!("{error:?}").contains("more than"), "{error:?}");
}

/// Without `most` in `BinaryCache::nar`, the archive would be accepted after any amount of
/// preceding data.
#[tokio::test]
async fn compressed_contents_without_end() {
    let liar = Liar::new("gzip").await;
    let file = liar.directory.path().join(liar.field("URL"));
    let empty = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    let mut contents = empty.finish().unwrap().repeat(100_000);
    contents.extend(std::fs::read(&file).unwrap());
    std::fs::write(&file, contents).unwrap();
    liar.expect_more("more than its size").await;
    liar.replace("FileSize:", "X:");
    liar.expect_more("no size").await;
}

#[tokio::test]
async fn contents_elsewhere() {
    let liar = Liar::new("none").await;
    let url = format!("URL: {}", liar.field("URL"));
    let secret = liar.directory.path().join("../secret-of-tvix-tests");
    for bad in [
        "../secret",
        "nar/../../secret",
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "nar/",
        "nar\\..\\x",
    ] {
        liar.replace(&url, &format!("URL: {bad}"));
        liar.expect_bad_info(bad).await;
    }
    // The root is that of the cache, and percent escapes are not decoded.
    for missing in ["/etc/passwd", "nar/%2e%2e/%2e%2e/secret"] {
        liar.replace(&url, &format!("URL: {missing}"));
        liar.expect(missing).await;
    }
    // A symlink that leads out of the cache is not followed, although its name is valid.
    let (_, nar) = object("path", &contents(10_000));
    let outside = TempDir::new().unwrap();
    let file = outside.path().join("outside.nar");
    std::fs::write(&file, &nar).unwrap();
    symlink(&file, liar.directory.path().join("nar/link.nar")).unwrap();
    symlink(outside.path(), liar.directory.path().join("out")).unwrap();
    for name in ["nar/link.nar", "out/outside.nar", "nar"] {
        liar.replace(&url, &format!("URL: {name}"));
        liar.expect(name).await;
    }
    // A symlink that stays inside is followed.
    let inside = liar.field("URL");
    let inside = inside.strip_prefix("nar/").unwrap();
    symlink(inside, liar.directory.path().join("nar/inside.nar")).unwrap();
    liar.replace(&url, "URL: nar/inside.nar");
    let store = MemoryStore::new(StoreDir::default());
    let paths = [liar.info.path.clone()];
    liar.cache()
        .await
        .copy_closure(&store, &paths)
        .await
        .unwrap();
    assert!(!secret.exists());
}

#[tokio::test]
async fn another_hash_or_size() {
    for compression in COMPRESSIONS {
        let liar = Liar::new(compression).await;
        let hash = liar.field("NarHash");
        let other = object("other", b"other").0.nix_hash().base32().to_string();
        liar.replace(&format!("NarHash: {hash}"), &format!("NarHash: {other}"));
        let lie = liar.expect_lie("another hash").await;
        assert!(matches!(lie, StoreError::HashMismatch { .. }), "{lie:?}");
        let size = liar.info.nar_size;
        for wrong in [1, size - 8, size - 1, size + 1, size * 3] {
            liar.replace(&format!("NarSize: {size}"), &format!("NarSize: {wrong}"));
            let lie = liar
                .expect_lie(&format!("{compression}, size {wrong}"))
                .await;
            assert!(matches!(lie, StoreError::SizeMismatch { .. }), "{lie:?}");
        }
    }
}

#[tokio::test]
async fn bombs_are_read_no_further_than_announced() {
    for compression in COMPRESSIONS {
        // Highly compressible: few bytes to download, many to decode.
        let liar = Liar::with(compression, &vec![0; 5_000_000]).await;
        liar.replace(&format!("NarSize: {}", liar.info.nar_size), "NarSize: 1000");
        let cache = liar.cache().await;
        let mut nar = cache.nar(&liar.info.path).await.unwrap();
        let mut came = 0;
        let error = loop {
            match futures::StreamExt::next(&mut nar).await.unwrap() {
                Ok(chunk) => came += chunk.len(),
                Err(error) => break error,
            }
        };
        assert!(came <= 1000, "{compression}: {came} bytes came");
        let is_corrupt = matches!(error, StoreError::Corrupt { .. });
        // Without compression, the file exceeds its limit before it is decoded.
        let too_large = format!("{error:?}").contains("more than");
        assert!(is_corrupt || too_large, "{compression}: {error:?}");
        liar.expect("a bomb").await;
    }
}

#[tokio::test]
async fn other_contents() {
    for compression in COMPRESSIONS {
        let liar = Liar::new(compression).await;
        let file = liar.directory.path().join(liar.field("URL"));
        let good = std::fs::read(&file).unwrap();
        let text = liar.text.replace("FileSize:", "X:");
        liar.say(&text);
        for cut in [0, 1, good.len() / 2, good.len() - 1] {
            std::fs::write(&file, &good[..cut]).unwrap();
            liar.expect_lie(&format!("{compression} cut at {cut}"))
                .await;
        }
        std::fs::write(&file, [&good[..], b"more"].concat()).unwrap();
        let cache = liar.cache().await;
        let store = MemoryStore::new(StoreDir::default());
        let paths = [liar.info.path.clone()];
        // Some decoders stop at the end of the stream; no additional contents may appear.
        if cache.copy_closure(&store, &paths).await.is_ok() {
            store.verify(&liar.info.path).await.unwrap();
        }
        std::fs::write(&file, vec![0x55; good.len()]).unwrap();
        liar.expect_lie(&format!("{compression}, nonsense")).await;
        std::fs::remove_file(&file).unwrap();
        liar.expect(&format!("{compression}, gone")).await;
    }
}

#[tokio::test]
async fn a_window_that_would_take_all_memory() {
    // The header of a stream with a dictionary of 4 GiB. Its checksum is correct, so that the
    // decoder reads it.
    let liar = Liar::new("xz").await;
    let file = liar.directory.path().join(liar.field("URL"));
    let mut bad = std::fs::read(&file).unwrap();
    // The stream header, followed by the block header: size, flags, filter 0x21, length 1,
    // dictionary.
    let at = bad[12..]
        .windows(2)
        .position(|it| it == [0x21, 0x01])
        .unwrap()
        + 14;
    bad[at] = 40;
    let end = 12 + (usize::from(bad[12]) + 1) * 4;
    let mut checksum = flate2::Crc::new();
    checksum.update(&bad[12..end - 4]);
    bad[end - 4..end].copy_from_slice(&checksum.sum().to_le_bytes());
    std::fs::write(&file, &bad).unwrap();
    let error = liar.expect("a large dictionary").await;
    let text = format!("{error:?}");
    assert!(text.contains("decode-memory-limit"), "{text}");
}

/// A large dictionary is valid; a reader with enough memory may raise the limit.
#[tokio::test]
async fn the_memory_of_decoders_is_a_setting() {
    let liar = Liar::new("lzma").await;
    let file = liar.directory.path().join(liar.field("URL"));
    let mut stream = std::fs::read(&file).unwrap();
    stream[1..5].copy_from_slice(&(256u32 << 20).to_le_bytes());
    std::fs::write(&file, &stream).unwrap();
    let store = MemoryStore::new(StoreDir::default());
    let paths = [liar.info.path.clone()];
    let uri = file_uri(&liar.directory);
    let small = open(&format!("{uri}?decode-memory-limit=100000000")).await;
    let error = small.copy_closure(&store, &paths).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("lzma") && text.contains("decode-memory-limit"),
        "{text}"
    );
    let large = open(&uri).await;
    large.copy_closure(&store, &paths).await.unwrap();
}
