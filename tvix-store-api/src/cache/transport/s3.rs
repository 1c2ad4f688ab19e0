//! A cache in S3, or in what speaks its protocol.

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutOptions,
    PutPayload, WriteMultipart,
};
use tokio::io::AsyncReadExt as _;

use super::{Object, Transport, TransportError, Upload};
use crate::cache::options::Tuning;
use crate::{BoxError, StoreUri};

/// What is uploaded in parts, and how large these are. S3 wants 5 MiB at least, and takes 10,000.
const PART: usize = 16 * 1024 * 1024;

/// Parts of one upload on their way.
const PARTS_IN_FLIGHT: usize = 4;

#[derive(Debug)]
pub(super) struct S3 {
    bucket: AmazonS3,
}

/// Gives `object_store` the client that plain HTTP has, with its trust and its time limits.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl S3 {
    /// Credentials come from the environment (`AWS_ACCESS_KEY_ID` and so on) or the machine's own.
    /// Parameters: `region`, `endpoint` (a host or a URL) and `scheme`, as Nix has them.
    pub fn new(uri: &StoreUri, tuning: &Tuning) -> Result<Self, BoxError> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(uri.location().trim_end_matches('/'))
            .with_http_connector(Connector(super::http::client(tuning)?));
        match uri.parameter("region") {
            Some(region) => builder = builder.with_region(region),
            // As Nix has it.
            None if builder
                .get_config_value(&AmazonS3ConfigKey::Region)
                .is_none() =>
            {
                builder = builder.with_region("us-east-1");
            }
            None => {}
        }
        if let Some(endpoint) = uri.parameter("endpoint") {
            let scheme = uri.parameter("scheme").unwrap_or("https");
            let url = match endpoint.contains("://") {
                true => endpoint.to_owned(),
                false => format!("{scheme}://{endpoint}"),
            };
            builder = builder
                .with_allow_http(url.starts_with("http://"))
                .with_endpoint(url);
        }
        Ok(Self {
            bucket: builder.build()?,
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
    // What it tries again by itself has failed often enough when it says so; nobody knows better
    // whether it may succeed later than whoever sees what it was.
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
    async fn get(&self, key: &str, offset: u64) -> Result<Option<Object>, TransportError> {
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
        let encoding = encoding.map(|it| it.as_ref().to_owned());
        let key = key.to_owned();
        let body = got.into_stream();
        Ok(Some(Object {
            body: body
                .map_err(move |error| failed("get", &key, error))
                .boxed(),
            starts_at: offset,
            encoding,
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
