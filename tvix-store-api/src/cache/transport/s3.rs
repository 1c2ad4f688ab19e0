//! A cache in S3, or in what speaks its protocol.

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutOptions,
    PutPayload, RetryConfig, WriteMultipart,
};
use tokio::io::AsyncReadExt as _;
use tvix_http::client::Client;
use tvix_http::decode::Coding;
use tvix_http::{SettingError, Unreachable};
use url::Url;

use super::aws;
use super::{Fetch, Object, Transport, TransportError, Upload};
use crate::cache::options::Tuning;
use crate::{BoxError, StoreUri};

/// What is uploaded in parts, and how large these are. S3 wants 5 MiB at least, and takes 10,000.
const PART: usize = 16 * 1024 * 1024;

/// Parts of one upload on their way.
const PARTS_IN_FLIGHT: usize = 4;

#[derive(Debug)]
pub(super) struct S3 {
    bucket: AmazonS3,
    storage_class: Option<String>,
}

/// Settings of the environment for credentials of the machine.
const MACHINE: [AmazonS3ConfigKey; 7] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    AmazonS3ConfigKey::MetadataEndpoint,
];

/// Gives `object_store` the client of caches over HTTP, with its roots and its time limits.
#[derive(Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.inner()))
    }
}

/// Where a bucket is, by the parameters that Nix has for it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    bucket: String,
    region: String,
    /// The URL that names of objects are appended to, with a host of its own for the bucket, or
    /// without the bucket.
    endpoint: String,
    virtual_hosted: bool,
}

impl Place {
    fn of(uri: &StoreUri) -> Result<Self, BoxError> {
        let bucket = uri.location().trim_end_matches('/').to_owned();
        if bucket.is_empty() || bucket.contains('/') {
            return Err(format!("'{bucket}' is not the name of a bucket").into());
        }
        let region = uri.parameter("region").unwrap_or("us-east-1").to_owned();
        let scheme = uri.parameter("scheme").unwrap_or("https");
        let endpoint = uri.parameter("endpoint").filter(|it| !it.is_empty());
        let url = match endpoint {
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(host) => format!("{scheme}://{host}"),
            None => format!("{scheme}://s3.{region}.amazonaws.com"),
        };
        let dotted = bucket.contains('.');
        let virtual_hosted = match uri.parameter("addressing-style") {
            // A host of its own has no certificate if its name has further dots.
            None | Some("auto") => endpoint.is_none() && !dotted,
            Some("path") => false,
            Some("virtual") if dotted => {
                let message = "has a dot, with which there is no virtual-hosted addressing";
                return Err(format!("the name of the bucket '{bucket}' {message}").into());
            }
            Some("virtual") => true,
            Some(other) => {
                let expected = "'auto', 'path' or 'virtual'";
                return Err(SettingError::invalid("addressing-style", other, expected).into());
            }
        };
        let mut parsed = Url::parse(&url)?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("'{url}' is not an endpoint over HTTP or HTTPS").into());
        }
        if virtual_hosted {
            let host = parsed.host_str().unwrap_or_default();
            let host = format!("{bucket}.{host}");
            parsed.set_host(Some(&host))?;
        }
        Ok(Self {
            bucket,
            region,
            endpoint: parsed.as_str().trim_end_matches('/').to_owned(),
            virtual_hosted,
        })
    }
}

/// Whether there may be credentials that the machine has, which only asking it would tell. On any
/// other machine nobody answers, and a public bucket would wait for that.
fn machine_has_credentials(env: aws::Environment<'_>) -> bool {
    let named = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
    ];
    if named.iter().any(|name| env(name).is_some()) {
        return true;
    }
    let disabled =
        env("AWS_EC2_METADATA_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    !disabled && vendor.trim() == "Amazon EC2"
}

impl S3 {
    /// Parameters are `region`, `endpoint` (a host or a URL), `scheme`, `addressing-style`,
    /// `profile` and `storage-class`, as Nix has them. Credentials come from the environment, from
    /// the profile, or from the machine; without any the bucket is read as everybody may.
    pub fn new(uri: &StoreUri, tuning: &Tuning) -> Result<Self, BoxError> {
        let env = |name: &str| std::env::var(name).ok();
        let place = Place::of(uri)?;
        // Only credentials come from the environment.
        let mut builder = AmazonS3Builder::new();
        match aws::keys(uri.parameter("profile"), &env)? {
            Some(keys) => {
                builder = builder
                    .with_access_key_id(keys.id)
                    .with_secret_access_key(keys.secret);
                if let Some(token) = keys.token {
                    builder = builder.with_token(token);
                }
            }
            None if machine_has_credentials(&env) => {
                for key in MACHINE {
                    let name = key.as_ref().to_ascii_uppercase();
                    if let Some(value) = env(&name) {
                        builder = builder.with_config(key, value);
                    }
                }
            }
            None => builder = builder.with_skip_signature(true),
        }
        // What fails is tried again by those who know how often.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let builder = builder
            .with_bucket_name(place.bucket)
            .with_region(place.region)
            .with_allow_http(place.endpoint.starts_with("http://"))
            .with_endpoint(place.endpoint)
            .with_virtual_hosted_style_request(place.virtual_hosted)
            .with_retry(retry)
            .with_http_connector(Connector(Client::new(&super::http::options(tuning))?));
        Ok(Self {
            bucket: builder.build()?,
            storage_class: uri.parameter("storage-class").map(str::to_owned),
        })
    }

    async fn put_file(
        &self,
        path: &Path,
        file: &tempfile::NamedTempFile,
        options: PutOptions,
    ) -> Result<(), BoxError> {
        let mut file = tokio::fs::File::open(file.path()).await?;
        let size = usize::try_from(file.metadata().await?.len()).unwrap_or(usize::MAX);
        if size <= PART {
            let mut contents = Vec::with_capacity(size);
            file.read_to_end(&mut contents).await?;
            let payload = PutPayload::from(contents);
            self.bucket.put_opts(path, payload, options).await?;
            return Ok(());
        }
        let options = object_store::PutMultipartOptions {
            attributes: options.attributes,
            ..Default::default()
        };
        let upload = self.bucket.put_multipart_opts(path, options).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
        loop {
            let mut part = Vec::with_capacity(PART);
            (&mut file).take(PART as u64).read_to_end(&mut part).await?;
            if part.is_empty() {
                break;
            }
            parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            parts.put(part.into());
        }
        parts.finish().await?;
        Ok(())
    }
}

fn failed(action: &str, key: &str, error: impl Into<BoxError>) -> TransportError {
    let error = error.into();
    if let Some(why) = Unreachable::find(&*error) {
        return TransportError::unreachable(why);
    }
    let retryable = matches!(
        error.downcast_ref(),
        Some(object_store::Error::Generic { .. })
    );
    TransportError::new(format!("cannot {action} '{key}'"), retryable).caused(error)
}

fn path(key: &str) -> Result<Path, TransportError> {
    Path::parse(key).map_err(|error| failed("use the name", key, error))
}

#[async_trait]
impl Transport for S3 {
    async fn get(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError> {
        let offset = fetch.offset;
        let options = GetOptions {
            range: (offset > 0).then_some(GetRange::Offset(offset)),
            ..GetOptions::default()
        };
        let got = match self.bucket.get_opts(&path(key)?, options).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            // To those who may not list, S3 says this of what is not there.
            Err(object_store::Error::PermissionDenied { .. }) => return Ok(None),
            got => got.map_err(|error| failed("get", key, error))?,
        };
        let encoding = got.attributes.get(&Attribute::ContentEncoding);
        let codings = codings(key, encoding.map(|it| it.as_ref()))?;
        let key = key.to_owned();
        let body = got.into_stream();
        Ok(Some(Object {
            body: body
                .map_err(move |error| failed("get", &key, error))
                .boxed(),
            starts_at: offset,
            codings,
            delimited: true,
        }))
    }

    async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        match self.bucket.head(&path(key)?).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. },
            ) => Ok(false),
            Err(error) => Err(failed("look for", key, error)),
        }
    }

    async fn put(
        &self,
        key: &str,
        upload: Upload,
        content_type: &'static str,
    ) -> Result<(), TransportError> {
        let path = path(key)?;
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, content_type.into());
        if let Some(class) = &self.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        let options = PutOptions::from(attributes);
        let put = match upload {
            Upload::Bytes(bytes) => {
                let put = self.bucket.put_opts(&path, bytes.into(), options).await;
                put.map(|_| ()).map_err(BoxError::from)
            }
            Upload::File(file) => self.put_file(&path, &file, options).await,
        };
        put.map_err(|error| failed("put", key, error))
    }
}

/// The content codings of `key` by the header `Content-Encoding`.
fn codings(key: &str, header: Option<&str>) -> Result<Vec<Coding>, TransportError> {
    Coding::from_header(header.unwrap_or_default())
        .map_err(|error| TransportError::new(format!("cannot decode '{key}'"), false).caused(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(uri: &str) -> Result<Place, String> {
        Place::of(&uri.parse().unwrap()).map_err(|error| error.to_string())
    }

    /// URLs as Nix 2.34.8 makes them of the same parameters.
    #[test]
    fn endpoints_and_addressing_styles() {
        for (uri, region, endpoint, virtual_hosted) in [
            (
                "s3://b",
                "us-east-1",
                "https://b.s3.us-east-1.amazonaws.com",
                true,
            ),
            (
                "s3://b?region=eu-west-1",
                "eu-west-1",
                "https://b.s3.eu-west-1.amazonaws.com",
                true,
            ),
            (
                "s3://b.c",
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com",
                false,
            ),
            (
                "s3://b?addressing-style=path",
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com",
                false,
            ),
            (
                "s3://b?endpoint=h:9000&scheme=http",
                "us-east-1",
                "http://h:9000",
                false,
            ),
            (
                "s3://b?endpoint=h:9000",
                "us-east-1",
                "https://h:9000",
                false,
            ),
            (
                "s3://b?endpoint=http://h:9000/x/",
                "us-east-1",
                "http://h:9000/x",
                false,
            ),
            (
                "s3://b?endpoint=http://h:9000&addressing-style=virtual",
                "us-east-1",
                "http://b.h:9000",
                true,
            ),
            (
                "s3://b.c?endpoint=h&addressing-style=auto",
                "us-east-1",
                "https://h",
                false,
            ),
        ] {
            let found = place(uri).unwrap();
            assert_eq!(found.region, region, "{uri}");
            assert_eq!(
                (found.endpoint.as_str(), found.virtual_hosted),
                (endpoint, virtual_hosted),
                "{uri}"
            );
        }
        for bad in [
            "s3://",
            "s3://b/folder",
            "s3://b?addressing-style=x",
            "s3://b.c?addressing-style=virtual",
            "s3://b?endpoint=ftp://h",
        ] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_machine_is_asked_only_where_it_may_know() {
        let with = |name: &'static str, value: &'static str| {
            let env = move |it: &str| (it == name).then(|| value.to_owned());
            machine_has_credentials(&env)
        };
        assert!(with("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"));
        assert!(with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x"));
        assert!(!with("AWS_EC2_METADATA_DISABLED", "true"));
    }
}
