//! Pushing: senders put objects into the store by themselves, and a delayed job takes them later.
//!
//! A sender asks for places and gets keys that were made here, `pushed/{pipeline}/{sender}/{id}/{file}`; the id is a
//! UUID of version 7, so a key tells when it expires. Nobody else's key, and no key of another shape, is taken.
//! What no job has taken after a day is swept; in its last hour no job takes it, as the sweep may have begun.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, stream};
use object_store::signer::Signer;
use object_store::{ObjectMeta, ObjectStoreExt};
use reqwest::Method;
use tidemill_jobs::{Fingerprint, JobId, Landed, NewJob};
use tidemill_pipelines::{Duplicates, Pipeline, PipelineName};
use url::Url;
use uuid::Uuid;

use crate::keys::{ObjectKey, file_part};
use crate::landing::{Landing, Stored, failed};
use crate::upload_source;
use crate::{Error, Result};

/// How long a place may be pushed to: enough for a large file on a slow line to begin, as the URL is checked then.
pub const PUSH_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How old an object may be when a job takes it. The sweep deletes it an hour later at the earliest.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_secs(23 * 3600);
/// Objects of one delayed job, and places asked for at once: both are made known in one request.
pub const PUSHED_MAX: usize = 1_000;
/// Questions to the object store at once when a delayed job is made.
const HEADS_IN_FLIGHT: usize = 16;

/// The key of a pushed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedKey {
    key: ObjectKey,
    id: Uuid,
    owner: String,
}

impl PushedKey {
    /// A new place for an object of this sender.
    pub fn new(pipeline: &PipelineName, sender: &str, file_name: Option<&str>) -> Self {
        let (id, owner) = (Uuid::now_v7(), owner(pipeline, sender));
        Self { key: ObjectKey::pushed(&owner, id, &file_part(file_name)), id, owner }
    }

    /// A key of this shape; none other can name an object outside of `pushed/`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let [_, pipeline, sender, id, file] = parts[..] else { return None };
        let id: Uuid = id.parse().ok()?;
        let owner = format!("{pipeline}/{sender}");
        let key = ObjectKey::pushed(&owner, id, &file_part(Some(file)));
        (key.as_str() == text).then_some(Self { key, id, owner })
    }

    /// Whether it was made for this sender and this pipeline.
    pub fn is_for(&self, pipeline: &PipelineName, sender: &str) -> bool {
        self.owner == owner(pipeline, sender)
    }

    /// The pipeline that it was made for.
    pub fn pipeline(&self) -> &str {
        self.owner.split('/').next().unwrap_or_default()
    }

    /// The key itself.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The part by which a job takes it.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// Until when it may be pushed to.
    pub fn expires_at(&self) -> DateTime<Utc> {
        let (seconds, _) = self.id.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let made = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        made.unwrap_or_default() + PUSH_WITHIN
    }

    /// A URL to which the object may be PUT without more credentials, until it expires.
    pub async fn presigned(&self, signer: &dyn Signer) -> Result<Url> {
        let signed = signer.signed_url(Method::PUT, &self.key.path(), PUSH_WITHIN).await;
        signed.map_err(|source| failed("presign", &self.key, source))
    }
}

/// `{pipeline}/{sender}`, the sender written so that no two are the same and none leaves its folder.
fn owner(pipeline: &PipelineName, sender: &str) -> String {
    let mut text = format!("{pipeline}/");
    for byte in sender.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => text.push(char::from(byte)),
            _ => text.push_str(&format!("_{byte:02x}")),
        }
    }
    text
}

/// A request for a job over objects that were pushed before.
#[derive(Debug, Clone)]
pub struct Delayed {
    /// The user who sends it.
    pub sender: String,
    /// Its objects, in the order in which they are read.
    pub files: Vec<PushedKey>,
    /// The values of the pipeline's parameters.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// The `Idempotency-Key` of the request.
    pub idempotency_key: Option<String>,
}

impl Landing {
    /// Stores a pushed object that the store itself cannot take from the sender.
    pub async fn push<S, E>(&self, key: &PushedKey, limit_bytes: u64, body: S) -> Result<Stored>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Display + Send,
    {
        if let Some((object_id, job_id)) = self.jobs.pushed(&[key.id()]).await?.pop() {
            return Err(tidemill_jobs::Error::ObjectTaken { object_id, job_id }.into());
        }
        self.store(&key.key, limit_bytes, body).await
    }

    /// Makes a job of objects that are there, each within the limit of the pipeline.
    pub async fn land_pushed(&self, pipeline: &Pipeline, delayed: Delayed) -> Result<Landed> {
        let mut found = self.look(&delayed.files).await?;
        self.forget_old(&delayed.files, &mut found).await?;
        let limit_bytes = upload_source(pipeline)?.max_size_bytes;
        refuse(&delayed.files, &found, |meta| meta.is_none(), |keys| Error::Missing { keys })?;
        let is_large = |meta: Option<&ObjectMeta>| meta.is_some_and(|meta| meta.size > limit_bytes);
        refuse(&delayed.files, &found, is_large, |keys| Error::PushedTooLarge { limit_bytes, keys })?;
        let found: Vec<ObjectMeta> = found.into_iter().flatten().collect();
        let job = NewJob {
            job_id: JobId::new(),
            pipeline: pipeline.name.clone(),
            file_name: match &delayed.files[..] {
                [one] => one.key.file_name().map(str::to_owned),
                _ => None,
            },
            size_bytes: found.iter().map(|meta| meta.size).sum(),
            content_sha256: fingerprint(&delayed.files, &found),
            pushed: delayed.files.iter().map(PushedKey::id).collect(),
            files: delayed.files.into_iter().map(|file| file.key.to_string()).collect(),
            parameters: delayed.parameters,
            takes_turns: pipeline.takes_turns(true),
            last_wins: pipeline.last_wins(),
            sender: delayed.sender,
            idempotency_key: delayed.idempotency_key,
            // The bytes are not read here, and each object is taken once anyway.
            duplicates: Duplicates::Accept,
        };
        let job_id = job.job_id;
        match self.jobs.land(job).await {
            Err(error @ tidemill_jobs::Error::Database { .. }) => self.settle(job_id, error).await,
            landed => Ok(landed?),
        }
    }

    async fn look(&self, files: &[PushedKey]) -> Result<Vec<Option<ObjectMeta>>> {
        let look = |file: PushedKey| async move {
            match self.objects.head(&file.key.path()).await {
                Ok(meta) => Ok(Some(meta)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(source) => Err(failed("look for", &file.key, source)),
            }
        };
        let looks = stream::iter(files.to_vec()).map(look).buffered(HEADS_IN_FLIGHT);
        looks.collect::<Vec<_>>().await.into_iter().collect()
    }

    /// What is old and was taken by no job counts as gone: the sweep may be deleting it just now.
    async fn forget_old(&self, files: &[PushedKey], found: &mut [Option<ObjectMeta>]) -> Result<()> {
        let bound = Utc::now() - TAKEN_WITHIN;
        let old = files
            .iter()
            .zip(found)
            .filter(|(_, meta)| matches!(meta, Some(meta) if meta.last_modified < bound));
        let old: Vec<_> = old.map(|(file, meta)| (file.id(), meta)).collect();
        let ids: Vec<String> = old.iter().map(|(id, _)| id.clone()).collect();
        let taken = self.jobs.pushed(&ids).await?;
        for (_, meta) in old.into_iter().filter(|(id, _)| !taken.iter().any(|(taken, _)| taken == id)) {
            *meta = None;
        }
        Ok(())
    }
}

/// An error that lists the keys of which `is_wrong` holds, if there are any.
fn refuse(
    files: &[PushedKey],
    found: &[Option<ObjectMeta>],
    is_wrong: impl Fn(Option<&ObjectMeta>) -> bool,
    error: impl Fn(Vec<String>) -> Error,
) -> Result<()> {
    let wrong = files.iter().zip(found).filter(|(_, meta)| is_wrong(meta.as_ref()));
    let keys: Vec<String> = wrong.map(|(file, _)| file.key.to_string()).collect();
    if keys.is_empty() { Ok(()) } else { Err(error(keys)) }
}

fn fingerprint(files: &[PushedKey], found: &[ObjectMeta]) -> String {
    let mut print = Fingerprint::default();
    for (file, meta) in files.iter().zip(found) {
        print.add(file.key.as_str(), meta.size, meta.e_tag.as_deref());
    }
    print.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_one_sender_and_one_pipeline() {
        let (sales, stock): (PipelineName, PipelineName) =
            ("sales".parse().unwrap(), "stock".parse().unwrap());
        let made = PushedKey::new(&sales, "ana@example.com", Some("../../may 1.csv"));
        let key = made.key().as_str();
        assert!(key.starts_with("pushed/sales/ana_40example_2ecom/") && key.ends_with("/may_1.csv"), "{key}");
        assert_eq!(PushedKey::parse(key).unwrap(), made);
        assert!(made.is_for(&sales, "ana@example.com"));
        for (pipeline, sender) in
            [(&stock, "ana@example.com"), (&sales, "ana"), (&sales, "ana_40example_2ecom")]
        {
            assert!(!made.is_for(pipeline, sender), "{pipeline} {sender}");
        }
        let left = made.expires_at() - Utc::now();
        assert!((800..=900).contains(&left.num_seconds()), "{left}");
    }

    #[test]
    fn no_key_of_another_shape_is_taken() {
        let id = Uuid::now_v7();
        for bad in [
            String::new(),
            format!("pushed/sales/ana/{id}"),
            format!("pushed/sales/ana/{id}/.."),
            format!("pushed/sales/ana/{id}/a/b"),
            format!("pushed/sales/ana/{id}/a b"),
            format!("pushed/sales/../{id}/a"),
            format!("landing/sales/ana/{id}/a"),
            format!("/pushed/sales/ana/{id}/a"),
            format!("pushed/sales/ana/{}/a", id.to_string().to_uppercase()),
            "pushed/sales/ana/x/a".to_owned(),
        ] {
            let parsed = PushedKey::parse(&bad);
            let own = parsed.filter(|key| key.is_for(&"sales".parse().unwrap(), "ana"));
            assert_eq!(own, None, "{bad}");
        }
        assert!(PushedKey::parse(&format!("pushed/sales/ana/{id}/a")).is_some());
    }
}
