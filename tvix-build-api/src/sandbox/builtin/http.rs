//! Downloads of `builtin:fetchurl`, through the client of `tvix-http`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tvix_http::Netrc;
use tvix_http::client::blocking::{Client, Download, Target};
use tvix_http::client::{ClientOptions, HttpError, Roots};

use super::task::{Complaint, Task};

/// Writes the contents of `url` to `to`. Servers must have a valid certificate.
pub(super) fn download(task: &Task, url: &str, to: &Path) -> Result<(), Complaint> {
    let failed = |error: &dyn std::fmt::Display| format!("unable to download '{url}': {error}");
    let parsed = url.parse().map_err(|error| failed(&error))?;
    let roots = match &task.ca_file {
        Some(file) => Roots::File(file.clone()),
        None => Roots::None,
    };
    let options = ClientOptions::default()
        .with_transfer(task.transfer.settings())
        .with_netrc(task.netrc.as_deref().map(Netrc::parse))
        .with_roots(roots)
        // The hash of the output protects it.
        .with_downgrades(true);
    // As in Nix, no content coding is asked for, and one that a server applies is undone.
    let download = Download::new(parsed);
    let mut target = Output { url, to };
    let client = Client::new(&options)?;
    let downloaded = client.download(&download, &mut target);
    downloaded.map_err(|error| match &error {
        HttpError::Write(_) => error.into(),
        _ => Complaint::from(failed(&error)),
    })?;
    Ok(())
}

struct Output<'a> {
    url: &'a str,
    to: &'a Path,
}

impl Target for Output<'_> {
    type Writer = File;

    fn restart(&mut self) -> io::Result<File> {
        File::create(self.to)
    }

    fn retrying(&mut self, error: &HttpError, pause: Duration) {
        let (url, ms) = (self.url, pause.as_millis());
        eprintln!("warning: unable to download '{url}': {error}; retrying in {ms} ms");
    }
}
