//! Pointers of Git LFS: files of a commit that stand for others, which a server keeps.

/// Pointers are smaller than this.
pub(super) const POINTER_LIMIT: u64 = 1024;

/// What a pointer says of the file that it stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    /// SHA-256 of the contents, as hexadecimal digits.
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// Parses a pointer (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
pub(super) fn parse(contents: &[u8]) -> Option<Pointer> {
    let text = std::str::from_utf8(contents).ok()?;
    if !text.starts_with("version https://git-lfs.github.com/spec/v1") {
        return None;
    }
    let (mut sha256, mut size) = (None, None);
    for line in text.lines() {
        if let Some(digits) = line.strip_prefix("oid sha256:") {
            sha256 = Some(digits);
        } else if let Some(digits) = line.strip_prefix("size ") {
            size = Some(digits);
        }
    }
    let (sha256, size) = (sha256?, size?);
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_size = size.bytes().all(|byte| byte.is_ascii_digit());
    Some(Pointer {
        sha256: is_hash.then(|| sha256.to_owned())?,
        size: is_size.then(|| size.parse().ok())??,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers() {
        let digits = "0123456789abcdef".repeat(4);
        let version = "version https://git-lfs.github.com/spec/v1\n";
        let pointer = Some(Pointer {
            sha256: digits.clone(),
            size: 12,
        });
        for text in [
            format!("{version}oid sha256:{digits}\nsize 12\n"),
            format!("{version}ext-0-x sha256:{digits}\noid sha256:{digits}\nsize 12"),
        ] {
            assert_eq!(parse(text.as_bytes()), pointer, "{text}");
        }
        for text in [
            String::new(),
            version.to_owned(),
            format!("oid sha256:{digits}\nsize 12\n"),
            format!("{version}oid sha256:{}\nsize 12\n", &digits[1..]),
            format!("{version}oid sha256:{digits}\nsize -1\n"),
            format!("{version}oid sha256:{digits}\nsize \n"),
            format!("{version}oid sha256:{digits}\nsize 99999999999999999999\n"),
            format!("version https://hawser.github.com/spec/v1\noid sha256:{digits}\nsize 12\n"),
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
