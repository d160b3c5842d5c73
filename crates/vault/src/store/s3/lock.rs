//! Object Lock: an object's version cannot be deleted by anybody before a date (compliance mode).

use super::wire::{Failure, Request};
use super::{S3Store, xml};
use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::Store as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::HeaderName;
use lifeboat_base::WallTime;
use md5::{Digest as _, Md5};

/// Services want to see it with a lock, whatever else signs the request.
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

const RETAIN_UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");

impl S3Store {
    /// Whether the bucket locks objects.
    pub(super) fn ask_for_locks(&self) -> Result<bool, Failure> {
        match self.call(&Request::new(Method::GET, "").query("object-lock", "")) {
            Ok(answer) => {
                let found = xml::read::<xml::LockConfiguration>(&answer.body);
                Ok(found.is_ok_and(|c| c.object_lock_enabled == "Enabled"))
            }
            // Every service says in its own way that it has none; that nobody may ask does not mean none.
            Err(f) if f.status().is_some_and(|s| !matches!(s, 401 | 403)) && !f.is_transient() => Ok(false),
            Err(f) => Err(f),
        }
    }

    /// Until when an object is locked, and what time it is for the service.
    fn retention(&self, name: &ObjectName) -> Result<Option<(WallTime, Option<WallTime>)>, StoreError> {
        let key = self.key(name);
        // With the object's head: not every service answers a question for the lock alone.
        let answer = self
            .call(&Request::new(Method::HEAD, &key).content(0))
            .map_err(|f| self.failed(Some(name), f))?;
        let Some(date) = answer.headers.get(RETAIN_UNTIL) else { return Ok(None) };
        let unread = |why: String| self.broken(format!("the lock of {name} cannot be read: {why}"));
        let date = date.to_str().map_err(|e| unread(e.to_string()))?;
        let until = date.parse::<jiff::Timestamp>().map_err(|e| unread(e.to_string()))?;
        Ok(Some((WallTime::from_jiff(until), answer.date().map(WallTime::from_jiff))))
    }

    /// An error where the object is locked, by the service's own clock.
    pub(super) fn refuse_locked(&self, name: &ObjectName) -> Result<(), StoreError> {
        match self.retention(name) {
            Ok(Some((until, now))) if now.is_none_or(|now| now < until) => {
                Err(StoreError::Locked { name: name.clone(), until: Some(until) })
            }
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn lock_until(&self, name: &ObjectName, until: WallTime) -> Result<(), StoreError> {
        if !self.has_locks()? {
            return Err(StoreError::Denied {
                store: self.describe(),
                why: "the bucket has no Object Lock: it has to be made with it".into(),
            });
        }
        // Whole seconds, as services keep it; never earlier than asked for.
        let until = WallTime(until.0.div_ceil(1_000_000_000).saturating_mul(1_000_000_000));
        if self.retention(name)?.is_some_and(|(there, _)| there >= until) {
            return Ok(());
        }
        let date = until.to_jiff().strftime("%Y-%m-%dT%H:%M:%SZ");
        let body = Bytes::from(format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
             <RetainUntilDate>{date}</RetainUntilDate></Retention>"
        ));
        let (key, md5) = (self.key(name), BASE64_STANDARD.encode(Md5::digest(&body)));
        let request =
            Request::new(Method::PUT, &key).query("retention", "").header(CONTENT_MD5, &md5).body(body);
        self.call(&request).map_err(|f| self.failed(Some(name), f))?;
        Ok(())
    }
}
