//! `builtin:unpack-channel`: the single directory in an archive, under the name of a channel.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

use tvix_http::decode::{Decoder, Limits};

use super::task::{Complaint, Task};

pub(super) fn run(task: &Task) -> Result<(), Complaint> {
    let (name, source) = (task.attribute("channelName")?, task.attribute("src")?);
    let output = task.output()?;
    let plain = matches!(
        Path::new(name).components().collect::<Vec<_>>()[..],
        [Component::Normal(only)] if only == name
    );
    if !plain {
        let message = "channelName is not allowed to contain filesystem separators, got";
        return Err(format!("{message} '{name}'").into());
    }
    fs::create_dir(output)?;
    let opened = File::open(source);
    let opened = opened.map_err(|error| format!("cannot read '{source}': {error}"))?;
    let decoder = Decoder::sniffing(opened, &Limits::default());
    let decoder = decoder.map_err(|error| format!("cannot read '{source}': {error}"))?;
    let mut archive = tar::Archive::new(decoder);
    archive.set_preserve_mtime(false);
    archive.unpack(output)?;
    // A stream that is truncated after the end of the archive is an error as well.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    let mut entries = fs::read_dir(output)?;
    let only = match (entries.next(), entries.next()) {
        (None, _) => return Err(format!("channel tarball '{source}' is empty").into()),
        (Some(only), None) => only?.path(),
        _ => {
            return Err(format!("channel tarball '{source}' contains more than one file").into());
        }
    };
    Ok(fs::rename(only, output.join(name))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with files at these paths.
    fn archive(files: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for file in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            // Not with `append_data`, which would refuse the malicious paths.
            let name = file.as_bytes();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_cksum();
            builder.append(&header, &b"text"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(name: &str, contents: &[u8]) -> Result<Vec<u8>, Complaint> {
        let directory = tempfile::tempdir().unwrap();
        let (source, output) = (directory.path().join("src"), directory.path().join("out"));
        fs::write(&source, contents).unwrap();
        run(&Task::with(&[
            ("channelName", name),
            ("src", source.to_str().unwrap()),
            ("out", output.to_str().unwrap()),
        ]))
        .inspect_err(|_| assert!(!directory.path().join("outside").exists()))?;
        assert!(!directory.path().join("outside").exists());
        Ok(fs::read(output.join(name).join("file"))?)
    }

    #[test]
    fn compressed_or_not() {
        let plain = archive(&["top/file"]);
        let mut packed = vec![plain.clone(), zstd::encode_all(&plain[..], 1).unwrap()];
        let mut read = |reader: &mut dyn io::Read| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            packed.push(bytes);
        };
        read(&mut liblzma::read::XzEncoder::new(&plain[..], 0));
        read(&mut flate2::read::GzEncoder::new(
            &plain[..],
            flate2::Compression::fast(),
        ));
        read(&mut bzip2::read::BzEncoder::new(
            &plain[..],
            bzip2::Compression::fast(),
        ));
        for packed in &packed {
            assert_eq!(unpack("nixos", packed).unwrap(), b"text");
        }
        for packed in &packed[1..] {
            for cut in [1, 4, packed.len() / 2] {
                let cut = &packed[..packed.len() - cut];
                assert!(unpack("nixos", cut).is_err(), "{:x?}", &packed[..4]);
            }
        }
    }

    #[test]
    fn what_is_no_channel_is_refused() {
        for (name, files) in [
            ("a/b", &["top/file"][..]),
            ("..", &["top/file"]),
            ("", &["top/file"]),
            ("nixos", &[]),
            ("nixos", &["a/file", "b/file"]),
            ("nixos", &["../outside"]),
        ] {
            assert!(unpack(name, &archive(files)).is_err(), "{name}: {files:?}");
        }
        assert!(unpack("nixos", b"no archive").is_err());
        assert!(unpack("nixos", b"\x28\xb5\x2f\xfd").is_err());
        // An absolute name is relative to the archive.
        assert!(unpack("nixos", &archive(&["/top/file"])).is_ok());
    }
}
