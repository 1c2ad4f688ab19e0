//! Getting a file from a server.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use nix_compat::netrc;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Error};

use super::task::{Complaint, Task};

/// How often it is tried, as in Nix.
const ATTEMPTS: u32 = 5;

/// A server that sends nothing for so long has stalled, as in Nix.
const STALLED: Duration = Duration::from_secs(300);

const CONNECT: Duration = Duration::from_secs(15);

/// Writes to `to` what is at `url`. Servers have to be vouched for; what may pass is tried again.
pub(super) fn download(task: &Task, url: &str, to: &Path) -> Result<(), Complaint> {
    let agent = agent(task.ca_file.as_deref())?;
    let authorization = authorization(task.netrc.as_deref(), url)?;
    let mut wait = Duration::from_millis(250);
    let mut attempt = 1;
    loop {
        let error = match get(&agent, url, authorization.as_deref(), to) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if attempt == ATTEMPTS || !is_passing(&error) {
            return Err(format!("unable to download '{url}': {error}").into());
        }
        let wait_ms = wait.as_millis();
        eprintln!("warning: unable to download '{url}': {error}; retrying in {wait_ms} ms");
        std::thread::sleep(wait);
        wait *= 2;
        attempt += 1;
    }
}

fn agent(ca_file: Option<&Path>) -> Result<Agent, Complaint> {
    let mut roots = Vec::new();
    if let Some(file) = ca_file {
        let read = std::fs::read(file);
        let pem = read.map_err(|error| format!("cannot read '{}': {error}", file.display()))?;
        // One that cannot be understood vouches for nobody, and the others still do.
        roots.extend(parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
    }
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("tvix/", env!("CARGO_PKG_VERSION")))
        // Passwords go to whom they are for, and to nobody that it sends us to.
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(STALLED))
        .build();
    Ok(config.into())
}

/// The header that says who we are, if the URL or the netrc file does.
fn authorization(netrc: Option<&str>, url: &str) -> Result<Option<String>, Complaint> {
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("'{url}' is no URL: {error}"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let pair = match authority.rsplit_once('@') {
        Some((user_info, _)) => Some(user_info.to_owned()),
        None => {
            let login = netrc.and_then(|netrc| netrc::login(netrc, uri.host()?));
            login.map(|login| format!("{}:{}", login.name, login.password))
        }
    };
    Ok(pair.map(|pair| format!("Basic {}", BASE64.encode(pair.as_bytes()))))
}

fn get(agent: &Agent, url: &str, authorization: Option<&str>, to: &Path) -> Result<(), Error> {
    let mut request = agent.get(url);
    if let Some(authorization) = authorization {
        request = request.header("Authorization", authorization);
    }
    let response = request.call()?;
    let announced = response.body().content_length();
    let mut body = response.into_body().into_reader();
    let mut file = File::create(to)?;
    let length = copy(&mut body, &mut file)?;
    if announced.is_some_and(|announced| announced != length) {
        return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..length])?;
        copied += length as u64;
    }
}

/// Whether the same may well succeed soon.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::StatusCode(code) => matches!(code, 408 | 429 | 500..=599 if *code != 501),
        Error::Timeout(_) | Error::ConnectionFailed | Error::HostNotFound => true,
        // A certificate that is not accepted is an I/O error too.
        Error::Io(error) => !matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::StorageFull | io::ErrorKind::Other
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_one_is() {
        let netrc = Some("machine a.example login me password x");
        let of = |url| authorization(netrc, url).unwrap();
        assert_eq!(
            of("https://a.example:1/x").as_deref(),
            Some("Basic bWU6eA==")
        );
        assert_eq!(of("https://b.example/a.example"), None);
        assert_eq!(of("https://u:p@b.example/").as_deref(), Some("Basic dTpw"));
        assert!(authorization(None, "https://[x/").is_err());
    }
}
