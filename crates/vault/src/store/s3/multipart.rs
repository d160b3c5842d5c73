//! Objects larger than one part, and what is left of uploads nobody finished.
//!
//! Names that decide something are of small objects; a large one has a random name. All the same the end of an upload is a
//! conditional write, and where a service does not look at the condition, the name is looked up just before.

use super::wire::{Answer, Failure, Request};
use super::{S3Store, xml};
use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::{Put, Store as _};
use bytes::Bytes;
use http::Method;
use http::header::{ETAG, IF_NONE_MATCH};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

/// An upload that began so long ago is nobody's any more, in seconds.
const ABANDONED: i64 = 24 * 3600;

impl S3Store {
    /// `None` where the name was taken and is free again.
    pub(super) fn put_parts(&self, name: &ObjectName, body: &Bytes) -> Result<Option<Put>, StoreError> {
        let key = self.key(name);
        let begun = self
            .call(&Request::new(Method::POST, &key).query("uploads", ""))
            .map_err(|f| self.failed(Some(name), f))?;
        let upload = self.read::<xml::Initiated>(&begun)?.upload_id;
        let ended = self.fill(name, &key, &upload, body);
        if !matches!(ended, Ok(Some(Put::Created))) {
            // As good as it goes: what stays is taken away later.
            let _ = self.call(&Request::new(Method::DELETE, &key).query("uploadId", &upload).once());
        }
        ended
    }

    fn fill(
        &self,
        name: &ObjectName,
        key: &str,
        upload: &str,
        body: &Bytes,
    ) -> Result<Option<Put>, StoreError> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (n, at) in (0..body.len()).step_by(self.part).enumerate() {
            let number = (n + 1).to_string();
            let piece = body.slice(at..(at + self.part).min(body.len()));
            let request = Request::new(Method::PUT, key)
                .query("partNumber", &number)
                .query("uploadId", upload)
                .body(piece);
            let answer = self.call(&request).map_err(|f| self.failed(None, f))?;
            let tag = answer.headers.get(ETAG).and_then(|t| t.to_str().ok());
            let tag = tag.ok_or_else(|| self.broken("it does not tell the tag of a part"))?;
            let tag = xml::escape(tag);
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
        }
        list.push_str("</CompleteMultipartUpload>");
        if let Some(same) = self.holds(name, body)? {
            return Ok(Some(if same { Put::Created } else { Put::Exists }));
        }
        self.complete(name, key, upload, list, body)
    }

    fn complete(
        &self,
        name: &ObjectName,
        key: &str,
        upload: &str,
        list: String,
        body: &Bytes,
    ) -> Result<Option<Put>, StoreError> {
        let request = Request::new(Method::POST, key)
            .query("uploadId", upload)
            .header(IF_NONE_MATCH, "*")
            .body(list.into());
        match self.call(&request) {
            Ok(_) => match self.size(name)? {
                size if size == body.len() as u64 => Ok(Some(Put::Created)),
                size => {
                    Err(self.broken(format!("{name} has {size} bytes after an upload of {}", body.len())))
                }
            },
            Err(failure) if failure.is_taken() => self.taken(name, body),
            // An earlier attempt may have ended it and its answer was lost: then there is no such upload any more,
            // which each service says in its own way.
            Err(failure) => match self.holds(name, body)? {
                Some(true) => Ok(Some(Put::Created)),
                Some(false) => Ok(Some(Put::Exists)),
                None if failure.code() == "NoSuchUpload" => Err(self.unfinished(&failure)),
                None => Err(self.failed(None, failure)),
            },
        }
    }

    fn unfinished(&self, failure: &Failure) -> StoreError {
        StoreError::Unreachable {
            store: self.describe(),
            why: format!("an upload was ended by somebody else; try again ({})", failure.code()),
        }
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, StoreError> {
        xml::read(&answer.body).map_err(|why| self.broken(format!("its answer cannot be read: {why}")))
    }

    /// Aborts uploads that began more than a day ago, by the service's clock, and says how many.
    pub(super) fn reap_parts(&self) -> Result<u64, StoreError> {
        let mut reaped = 0;
        let (mut key, mut upload) = (String::new(), String::new());
        loop {
            let mut request =
                Request::new(Method::GET, "").query("uploads", "").query("prefix", &self.prefix);
            if !key.is_empty() {
                request = request.query("key-marker", &key).query("upload-id-marker", &upload);
            }
            let answer = self.call(&request).map_err(|f| self.failed(None, f))?;
            let now = answer.date();
            let page: xml::Uploads = self.read(&answer)?;
            for old in page.uploads.iter().filter(|u| is_abandoned(&u.initiated, now)) {
                if old.key.starts_with(&self.prefix) && self.abort(old)? {
                    reaped += 1;
                }
            }
            let next =
                (page.next_key_marker.unwrap_or_default(), page.next_upload_id_marker.unwrap_or_default());
            if !page.is_truncated || next.0.is_empty() || next == (key.clone(), upload.clone()) {
                return Ok(reaped);
            }
            (key, upload) = next;
        }
    }

    /// Whether it was still there.
    fn abort(&self, old: &xml::Upload) -> Result<bool, StoreError> {
        let request = Request::new(Method::DELETE, &old.key).query("uploadId", &old.upload_id);
        match self.call(&request) {
            Ok(_) => Ok(true),
            Err(failure) if failure.status() == Some(404) => Ok(false),
            Err(failure) => Err(self.failed(None, failure)),
        }
    }
}

fn is_abandoned(initiated: &str, now: Option<Timestamp>) -> bool {
    let (Some(now), Ok(begun)) = (now, initiated.parse::<Timestamp>()) else { return false };
    now.as_second().saturating_sub(begun.as_second()) >= ABANDONED
}
