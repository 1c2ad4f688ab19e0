//! HTTP: redirects, time-outs, retries, and no download of what has not changed.

use std::io::{self, Read};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, ResponseExt as _};

use super::{Cancel, FetchError, FetchOptions};

/// How often a download that waits looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);
/// The wait before the second attempt; before each further one it is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MOST_REDIRECTS: u32 = 10;

/// What a server said of something.
pub(super) enum Reply {
    /// What is known already.
    Unchanged,
    /// It, written out; and what to ask with another time.
    Changed { etag: String },
}

/// Downloads to a writer, which `restart` makes anew for each attempt.
pub(super) fn download<W: io::Write>(
    url: &str,
    etag: Option<&str>,
    options: &FetchOptions,
    cancel: &Cancel,
    mut restart: impl FnMut() -> io::Result<W>,
) -> Result<Reply, FetchError> {
    let mut wait = FIRST_WAIT;
    let mut attempt = 1;
    loop {
        let file = restart().map_err(|error| FetchError::local("writing a download", error))?;
        match once(url, etag, options, cancel, file) {
            Err(FetchError::Download {
                retryable: true, ..
            }) if attempt < options.attempts => {
                sleep(wait, cancel)?;
                wait *= 2;
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn sleep(time: Duration, cancel: &Cancel) -> Result<(), FetchError> {
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        if cancel.is_cancelled() {
            return Err(FetchError::Cancelled);
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn once<W: io::Write>(
    url: &str,
    etag: Option<&str>,
    options: &FetchOptions,
    cancel: &Cancel,
    file: W,
) -> Result<Reply, FetchError> {
    let agent = agent(options);
    // Reads wait in the kernel. Who cancels shuts the connection down under them.
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let watched = agent.clone();
        scope.spawn(move || {
            while is_done.recv_timeout(LOOK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    watched.shutdown();
                    return;
                }
            }
        });
        let result = exchange(&agent, url, etag, options, file);
        drop(done);
        result
    });
    match result {
        Err(_) if cancel.is_cancelled() => Err(FetchError::Cancelled),
        result => result,
    }
}

fn agent(options: &FetchOptions) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(MOST_REDIRECTS)
        .max_idle_connections(0)
        .timeout_connect(Some(options.connect_timeout))
        .timeout_recv_response(Some(options.stall_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_per_write(Some(options.stall_timeout))
        .user_agent(concat!("tvix-eval/", env!("CARGO_PKG_VERSION")))
        .tls_config(TLS.clone())
        .build()
        .new_agent()
}

/// The roots that this system trusts; they take a while to read.
static TLS: LazyLock<TlsConfig> = LazyLock::new(|| {
    // NIX_SSL_CERT_FILE comes before SSL_CERT_FILE, as in Nix.
    let own = std::env::var_os("NIX_SSL_CERT_FILE").filter(|file| !file.is_empty());
    let found = match own {
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(file.as_ref()), None),
        None => rustls_native_certs::load_native_certs(),
    };
    for error in &found.errors {
        tracing::warn!("a trusted certificate cannot be read: {error}");
    }
    let roots: Vec<_> = found
        .certs
        .iter()
        .map(|root| Certificate::from_der(root).to_owned())
        .collect();
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build()
});

fn exchange<W: io::Write>(
    agent: &Agent,
    url: &str,
    etag: Option<&str>,
    options: &FetchOptions,
    mut file: W,
) -> Result<Reply, FetchError> {
    let failed = |reason: String, retryable| FetchError::Download {
        url: url.to_owned(),
        reason,
        retryable,
    };
    let mut request = agent.get(url);
    if let Some(etag) = etag {
        request = request.header("If-None-Match", etag);
    }
    let mut response = request
        .call()
        .map_err(|error| failed(error.to_string(), is_passing(&error)))?;
    let status = response.status();
    tracing::debug!("{url}: {status} from {}", response.get_uri());
    match status.as_u16() {
        200..300 => {}
        304 if etag.is_some() => return Ok(Reply::Unchanged),
        code => {
            let retryable = matches!(code, 408 | 429 | 500 | 502..=504 | 506..=510 | 512..);
            let known = status.canonical_reason().unwrap_or_default();
            let reason = format!("HTTP error {code} {known}");
            return Err(failed(reason.trim_end().to_owned(), retryable));
        }
    }
    let etag = response.headers().get("ETag");
    let etag = etag.and_then(|etag| etag.to_str().ok()).unwrap_or_default();
    let etag = etag.to_owned();
    let most = options.download_limit;
    let mut body = response.body_mut().as_reader().take(most.saturating_add(1));
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(failed(error.to_string(), true)),
        };
        total += read as u64;
        if total > most {
            return Err(failed(format!("it has more than {most} bytes"), false));
        }
        file.write_all(&buffer[..read])
            .map_err(|error| FetchError::local("writing a download", error))?;
    }
    file.flush()
        .map_err(|error| FetchError::local("writing a download", error))?;
    Ok(Reply::Changed { etag })
}

/// Whether a failure may be over the next time.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        // A server for which nobody vouches; nobody will a second later.
        ureq::Error::Io(error) => error.kind() != io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => true,
        _ => false,
    }
}
