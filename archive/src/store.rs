//! Where an archive lies: a folder or a bucket, by its address. Whatever goes wrong names the file.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use primal_core::error::LogError;
use serde::Deserialize;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one request may take; it moves a file at most.
const REQUEST: Duration = Duration::from_secs(120);
/// How long a request that failed is tried again. Whoever asked may wait longer, and says so.
const AGAIN: Duration = Duration::from_secs(10);

/// What S3 needs beside its address. What is not given is taken from the environment as AWS's tools do
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`).
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// The server's address, where it is not AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The key's name.
    pub access_key: Option<String>,
    /// The key.
    pub secret_key: Option<String>,
}

/// Without the key.
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

/// An archive's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and what stands before all names in it.
    Bucket(String, String),
}

impl Location {
    /// Reads `file:///folder` or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// A message that says what is expected.
    pub fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected file:///folder or s3://bucket/prefix";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?} is no address; {EXPECTED}"))?;
        match scheme {
            "file" if rest.starts_with('/') => Ok(Location::Folder(PathBuf::from(rest))),
            "file" => Err(format!("{url:?} does not name a folder from the root on; {EXPECTED}")),
            "s3" => match rest.split_once('/').unwrap_or((rest, "")) {
                ("", _) => Err(format!("{url:?} names no bucket; {EXPECTED}")),
                (bucket, prefix) => Ok(Location::Bucket(bucket.to_owned(), prefix.trim_matches('/').to_owned())),
            },
            other => Err(format!("{url:?} has the unknown scheme {other:?}; {EXPECTED}")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(folder) => write!(f, "file://{}", folder.display()),
            Location::Bucket(bucket, prefix) if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::Bucket(bucket, prefix) => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The files of an archive, by their names below its address.
pub(crate) struct Store {
    location: String,
    base: Path,
    folder: Option<PathBuf>,
    store: OnceLock<Arc<dyn ObjectStore>>,
}

impl Store {
    /// No network: it connects when it is first used.
    pub fn open(location: &Location, s3: &S3) -> Result<Self, String> {
        let named = location.to_string();
        match location {
            Location::Folder(folder) => Ok(Store {
                location: named,
                base: Path::default(),
                folder: Some(folder.clone()),
                store: OnceLock::new(),
            }),
            Location::Bucket(bucket, prefix) => {
                let base = Path::parse(prefix).map_err(|e| format!("{named}: {e}"))?;
                let store = s3.build(bucket).map_err(|e| format!("{named}: {e}"))?;
                Ok(Store { location: named, base, folder: None, store: OnceLock::from(store) })
            }
        }
    }

    /// In memory.
    #[cfg(test)]
    pub fn memory(store: Arc<dyn ObjectStore>) -> Self {
        let location = "memory://".to_owned();
        Store { location, base: Path::default(), folder: None, store: OnceLock::from(store) }
    }

    /// A file's full name, for messages.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.location)
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.base.clone(), |path, part| path.join(part))
    }

    fn store(&self, to_write: bool) -> Result<Arc<dyn ObjectStore>, LogError> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let folder = self.folder.clone().unwrap_or_default();
        let failed = |what: &str, e: &dyn fmt::Display| {
            LogError::Unavailable(format!("the archive's folder {} {what}: {e}", folder.display()))
        };
        if to_write {
            std::fs::create_dir_all(&folder).map_err(|e| failed("cannot be made", &e))?;
        } else if !folder.is_dir() {
            return Err(failed("is not there", &"`primalcore archive` makes it; is `archive.url` right?"));
        }
        let opened = LocalFileSystem::new_with_prefix(&folder).map_err(|e| failed("cannot be used", &e))?;
        Ok(self.store.get_or_init(|| Arc::new(opened)).clone())
    }

    /// Whether the folder is there, where it is one.
    pub fn is_made(&self) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.is_dir())
    }

    /// Makes the folder, where it is one.
    pub fn make(&self) -> Result<(), LogError> {
        self.store(true).map(drop)
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> LogError {
        LogError::Unavailable(format!("the archive's {}: {error}", self.named(name)))
    }

    /// The names of all files in a folder and below it.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, LogError> {
        let store = self.store(false)?;
        let path = self.path(folder);
        let listed: Vec<_> = store.list(Some(&path)).try_collect().await.map_err(|e| self.failed(folder, &e))?;
        let below = |path: &Path| {
            let parts = path.prefix_match(&self.base)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        Ok(listed.into_iter().filter_map(|meta| below(&meta.location)).collect())
    }

    /// A whole file; `None` when there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, LogError> {
        match self.store(false)?.get(&self.path(name)).await {
            Ok(result) => result.bytes().await.map(Some).map_err(|e| self.failed(name, &e)),
            Err(error) => self.absent(name, error),
        }
    }

    /// A part of a file; `None` when there is no such file, or it is shorter.
    pub async fn part(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, LogError> {
        let (store, path, wanted, end) = (self.store(false)?, self.path(name), range.end - range.start, range.end);
        match store.get_range(&path, range).await {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| bytes.len() as u64 == wanted)),
            // Each store has its own error for a range that a file does not have.
            Err(error) => match store.head(&path).await {
                Ok(found) if found.size < end => Ok(None),
                Ok(_) => self.absent(name, error),
                Err(absent) => self.absent(name, absent),
            },
        }
    }

    fn absent<T>(&self, name: &str, error: object_store::Error) -> Result<Option<T>, LogError> {
        match error {
            object_store::Error::NotFound { .. } => Ok(None),
            other => Err(self.failed(name, &other)),
        }
    }

    /// Writes a file, whether or not there is one.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), LogError> {
        self.write(name, bytes, PutMode::Overwrite).await.map(|_| ())
    }

    /// Writes a file where there is none; says whether it did.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, LogError> {
        self.write(name, bytes, PutMode::Create).await
    }

    async fn write(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<bool, LogError> {
        let options = PutOptions::from(mode);
        match self.store(true)?.put_opts(&self.path(name), bytes.into(), options).await {
            Ok(_) => self.sync(name).await.map(|()| true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    /// Makes a file of a folder durable: the log may drop what it holds. A bucket's is with its answer.
    async fn sync(&self, name: &str) -> Result<(), LogError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let path = folder.join(name);
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&path)?.sync_all()?;
            // The folders that were made for it, too.
            for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(&folder)) {
                std::fs::File::open(parent)?.sync_all()?;
            }
            Ok::<_, std::io::Error>(())
        });
        let failed = |e: &dyn fmt::Display| LogError::Unavailable(format!("the archive's {}: {e}", self.named(name)));
        synced.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
    }

    /// Removes a file, if there is one.
    pub async fn delete(&self, name: &str) -> Result<(), LogError> {
        match self.store(false)?.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }
}

impl S3 {
    fn build(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, String> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let clear = |endpoint: &String| endpoint.starts_with("http://");
        let options = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST);
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 4, retry_timeout: AGAIN };
        builder = builder.with_client_options(options.with_allow_http(self.endpoint.as_ref().is_some_and(clear)));
        builder = builder.with_retry(retry);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(key) = &self.access_key {
            builder = builder.with_access_key_id(key);
        }
        if let Some(key) = &self.secret_key {
            builder = builder.with_secret_access_key(key);
        }
        Ok(Arc::new(builder.build().map_err(|e| e.to_string())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_say_what_is_expected() {
        assert_eq!(Location::parse("file:///a/b").unwrap().to_string(), "file:///a/b");
        assert_eq!(Location::parse("s3://bucket/a/b/").unwrap().to_string(), "s3://bucket/a/b");
        assert_eq!(Location::parse("s3://bucket").unwrap(), Location::Bucket("bucket".into(), String::new()));
        for (bad, says) in [
            ("/a/b", "is no address"),
            ("file://a/b", "from the root on"),
            ("s3:///a", "names no bucket"),
            ("ftp://host/a", "the unknown scheme \"ftp\""),
        ] {
            let error = Location::parse(bad).unwrap_err();
            assert!(
                error.contains(says) && error.ends_with("expected file:///folder or s3://bucket/prefix"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_named_and_made_only_for_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/archive");
        let store = Store::open(&Location::Folder(path.clone()), &S3::default()).unwrap();
        let error = store.list("c").await.err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("is not there"), "{error}");
        assert!(store.create("c/p/a", Bytes::from_static(b"1")).await.unwrap());
        assert!(!store.create("c/p/a", Bytes::from_static(b"2")).await.unwrap());
        store.put("c/p/b", Bytes::from_static(b"3")).await.unwrap();
        let mut names: Vec<_> = store.list("c").await.unwrap().into_iter().collect();
        names.sort();
        assert_eq!(names, ["c/p/a", "c/p/b"]);
        assert_eq!(store.get("c/p/a").await.unwrap().unwrap(), "1");
        assert_eq!(store.part("c/p/a", 0..2).await.unwrap(), None, "it is shorter");
        store.delete("c/p/a").await.unwrap();
        assert_eq!(store.get("c/p/a").await.unwrap(), None);
    }
}
