//! `builtin:fetchurl`: downloads a file, or an archive of a tree.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tvix_http::decode::{Coding, Decoder, Limits};
use tvix_tree::{RestoreOptions, restore};

use super::http;
use super::task::{Complaint, Task};

pub(super) fn run(task: &Task) -> Result<(), Complaint> {
    let (url, output) = (task.attribute("url")?, task.output()?);
    // Beside the output, so that it can be renamed into place. Outputs have no such names.
    let file = output.with_file_name(".download");
    if let Some(path) = url.strip_prefix("file://") {
        let path = percent_decoded(path);
        let copied = fs::copy(&path, &file);
        copied.map_err(|error| format!("unable to download '{url}': {error}"))?;
    } else if url.starts_with("http://") || url.starts_with("https://") {
        http::download(task, url, &file)?;
    } else {
        return Err(format!("unable to download '{url}': the protocol is not supported").into());
    }
    if task.flag("unpack") {
        unpack(&file, url.ends_with(".xz"), output)?;
        fs::remove_file(&file)?;
    } else {
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        fs::rename(&file, output)?;
    }
    if task.flag("executable") {
        fs::set_permissions(output, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn unpack(archive: &Path, compressed: bool, output: &Path) -> Result<(), Complaint> {
    let coding = compressed.then_some(Coding::Xz);
    let mut decoder = Decoder::new(coding, File::open(archive)?, &Limits::default())?;
    restore(
        BufReader::new(&mut decoder),
        output,
        RestoreOptions::default(),
    )?;
    // A stream that is truncated after the end of the archive is an error as well.
    if compressed {
        io::copy(&mut decoder, &mut io::sink())?;
    }
    Ok(())
}

/// The path of a URL without its host, with percent escapes decoded.
fn percent_decoded(path: &str) -> PathBuf {
    let path = match path.find('/') {
        Some(slash) => &path[slash..],
        None => path,
    };
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let digits = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn files_and_what_is_escaped_in_their_names() {
        for (path, wanted) in [
            ("/a/b", "/a/b"),
            ("localhost/a%20b", "/a b"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%zz%41", "/%zzA"),
        ] {
            assert_eq!(percent_decoded(path), Path::new(wanted));
        }
    }

    #[test]
    fn files_are_fetched_and_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut writer = nix_compat::nar::Writer::new(Vec::new());
        writer.regular(true, b"contents").unwrap();
        let archive = writer.finish().unwrap();
        let mut compressed = liblzma::read::XzEncoder::new(&archive[..], 0);
        let mut bytes = Vec::new();
        compressed.read_to_end(&mut bytes).unwrap();
        fs::write(at("x.nar"), &archive).unwrap();
        fs::write(at("x.nar.xz"), &bytes).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        for (source, flags, contents, executable) in [
            ("x.nar", &[][..], archive.as_slice(), false),
            ("x.nar", &["executable"], &archive, true),
            ("x.nar", &["unpack"], b"contents", true),
            ("x.nar.xz", &["unpack"], b"contents", true),
            ("x.nar.xz", &[], &bytes, false),
        ] {
            let output = at(&format!("out-{source}-{}", flags.join("-")));
            let url = format!("file://{}", at(source).display());
            let mut attributes = vec![("url", url.as_str()), ("out", output.to_str().unwrap())];
            attributes.extend(flags.iter().map(|flag| (*flag, "1")));
            run(&Task::with(&attributes)).unwrap();
            assert_eq!(fs::read(&output).unwrap(), contents);
            assert_eq!(mode(&output) & 0o100 != 0, executable);
            assert!(!at(".download").exists());
        }
        // The stream is truncated after the end of the archive.
        fs::write(at("cut.nar.xz"), &bytes[..bytes.len() - 4]).unwrap();
        let (url, output) = (format!("file://{}", at("cut.nar.xz").display()), at("cut"));
        let attributes = [
            ("url", &*url),
            ("out", output.to_str().unwrap()),
            ("unpack", "1"),
        ];
        let error = run(&Task::with(&attributes)).unwrap_err().to_string();
        assert!(error.contains("cut off"), "{error}");
        let output = at("never");
        for url in ["ftp://x/y", "/etc/passwd", "file:///nowhere/at/all"] {
            let task = Task::with(&[("url", url), ("out", output.to_str().unwrap())]);
            let error = run(&task).unwrap_err().to_string();
            assert!(error.starts_with("unable to download"), "{error}");
        }
    }
}
