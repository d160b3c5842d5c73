//! A store in a bucket of an S3-compatible service.
//!
//! - A name is decided by one conditional write (`If-None-Match: *`). A write whose answer was lost and that is refused when
//!   it is asked again is resolved by comparing what is there: nobody is told "taken" about an object of his own.
//! - Every request may be repeated, and is, a few times within one deadline; then the error says that nobody answers.
//! - An answer is believed only where it says so itself: a 200 that carries an error is an error; a range that is not
//!   the one asked for is none.
//! - What is larger than one part goes up in parts. Parts of uploads nobody finished are taken away after a day, by the
//!   service's own clock.
//! - Locks are Object Lock in compliance mode, where the bucket has it. Such a bucket keeps versions: what is deleted there
//!   is hidden, and is freed by the bucket's own lifecycle rules.
//!
//! Calls block; they must not be made from a thread that runs asynchronous tasks.

mod errors;
mod lock;
mod multipart;
mod settings;
mod wire;
mod xml;

pub use settings::{S3Keys, S3Limits, S3Settings};

use super::{Locked, ObjectInfo, Part, Put, Store};
use crate::error::StoreError;
use crate::id::ObjectName;
use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{CONTENT_RANGE, HeaderMap, IF_NONE_MATCH, RANGE};
use lifeboat_base::{Entropy, WallTime, limits};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use wire::{Answer, Failure, Request, Wire};

/// Bytes compared at a time with what is there.
const COMPARED: usize = 8 * limits::MIB;

/// Beyond the end of every object.
const FAR: u64 = 1 << 62;

/// How often a name that was taken and then free again is tried.
const TRIES: usize = 3;

/// Objects in a bucket, below a prefix.
#[derive(Debug)]
pub struct S3Store {
    wire: Wire,
    /// Ends with a slash, or is empty.
    prefix: String,
    /// Larger objects go up in parts of this size.
    part: usize,
    locks: OnceLock<bool>,
}

impl S3Store {
    /// Nothing is asked of the service yet; see [`probe`](super::probe::probe).
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: S3Settings, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let prefix = settings.prefix()?;
        let part = settings.limits.part.max(S3Limits::SMALLEST_PART);
        Ok(Self { wire: Wire::new(settings, entropy)?, prefix, part, locks: OnceLock::new() })
    }

    fn key(&self, name: &ObjectName) -> String {
        format!("{}{name}", self.prefix)
    }

    fn call(&self, request: &Request) -> Result<Answer, Failure> {
        self.wire.call(request)
    }

    /// The failure as the caller sees it.
    fn failed(&self, name: Option<&ObjectName>, failure: Failure) -> StoreError {
        errors::store_error(&self.wire, name, failure)
    }

    fn broken(&self, why: impl Into<String>) -> StoreError {
        StoreError::Broken { store: self.describe(), why: why.into() }
    }

    /// Whether the object holds these bytes; `None` where there is none.
    fn holds(&self, name: &ObjectName, body: &Bytes) -> Result<Option<bool>, StoreError> {
        let size = match self.size(name) {
            Ok(size) => size,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        if size != body.len() as u64 {
            return Ok(Some(false));
        }
        for (n, piece) in body.chunks(COMPARED).enumerate() {
            let part = Part::Range { offset: (n * COMPARED) as u64, len: piece.len() as u64 };
            match self.get(name, part) {
                Ok(there) if there == piece => {}
                Ok(_) => return Ok(Some(false)),
                Err(StoreError::NotFound(_)) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(true))
    }

    /// One attempt at a name. `None` where the name was taken and is free again.
    fn put_once(&self, name: &ObjectName, body: &Bytes) -> Result<Option<Put>, StoreError> {
        if body.len() > self.part {
            return self.put_parts(name, body);
        }
        let key = self.key(name);
        let request = Request::new(Method::PUT, &key).header(IF_NONE_MATCH, "*").body(body.clone());
        match self.call(&request) {
            Ok(_) => Ok(Some(Put::Created)),
            Err(failure) if failure.is_taken() => self.taken(name, body),
            Err(failure) => Err(self.failed(Some(name), failure)),
        }
    }

    /// What a refused write means: somebody else's object, or one's own whose answer was lost.
    fn taken(&self, name: &ObjectName, body: &Bytes) -> Result<Option<Put>, StoreError> {
        Ok(self.holds(name, body)?.map(|same| if same { Put::Created } else { Put::Exists }))
    }

    /// Bytes of an answer to a request for `part`, which the service may have answered with more.
    fn cut(&self, part: Part, answer: Answer) -> Result<Bytes, StoreError> {
        let Some(content_range) = answer.headers.get(CONTENT_RANGE) else {
            let range = part.within(answer.body.len() as u64);
            return Ok(answer.body.slice(range.start as usize..range.end as usize));
        };
        // "bytes 0-9/100"
        let told = content_range.to_str().ok().and_then(|text| {
            let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let number = |text: &str| text.parse::<u64>().ok();
            Some((number(first)?..number(last)?.checked_add(1)?, number(size)?))
        });
        match told {
            Some((range, size)) if range == part.within(size) => {
                if answer.body.len() as u64 == range.end - range.start {
                    return Ok(answer.body);
                }
                Err(self.broken("it answered fewer or more bytes than it says"))
            }
            _ => Err(self.broken(format!("it answered the range {content_range:?}, not the one asked for"))),
        }
    }

    fn list_page(&self, prefix: &str, token: Option<&str>) -> Result<xml::Listing, StoreError> {
        let prefix = format!("{}{prefix}", self.prefix);
        let mut request = Request::new(Method::GET, "").query("list-type", "2").query("prefix", &prefix);
        if let Some(token) = token {
            request = request.query("continuation-token", token);
        }
        let answer = self.call(&request).map_err(|f| self.failed(None, f))?;
        xml::read(&answer.body).map_err(|why| self.broken(format!("its listing cannot be read: {why}")))
    }
}

impl Store for S3Store {
    fn describe(&self) -> String {
        self.wire.describe().to_string()
    }

    fn has_locks(&self) -> Result<bool, StoreError> {
        if let Some(locks) = self.locks.get() {
            return Ok(*locks);
        }
        // Only an answer is remembered.
        let locks = self.ask_for_locks().map_err(|f| self.failed(None, f))?;
        Ok(*self.locks.get_or_init(|| locks))
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        if body.len() as u64 > limits::MAX_OBJECT {
            return Err(self.broken(format!("{name} of {} bytes is more than an object has", body.len())));
        }
        for _ in 0..TRIES {
            if let Some(put) = self.put_once(name, &body)? {
                return Ok(put);
            }
        }
        Err(self.broken(format!("{name} is refused as taken, and is not there")))
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        let key = self.key(name);
        let request = Request::new(Method::GET, &key);
        let (range, most) = match part {
            Part::All => (None, limits::MAX_OBJECT),
            // No range says "nothing": only whether the object is there is of interest.
            Part::Range { len: 0, .. } | Part::Tail(0) => return self.size(name).map(|_| Bytes::new()),
            // No object reaches so far, and services refuse to hear such numbers.
            Part::Range { offset, .. } if offset >= FAR => return self.size(name).map(|_| Bytes::new()),
            Part::Range { offset, len } => {
                let last = offset.saturating_add(len - 1).min(FAR);
                (Some(format!("bytes={offset}-{last}")), len)
            }
            Part::Tail(len) => (Some(format!("bytes=-{}", len.min(FAR))), len),
        };
        let request = match &range {
            Some(range) => request.header(RANGE, range),
            None => request,
        };
        match self.call(&request.content(most.min(limits::MAX_OBJECT))) {
            Ok(answer) => self.cut(part, answer),
            // Some services cannot give the last 10 bytes of 5.
            Err(failure)
                if matches!(part, Part::Tail(_))
                    && matches!(failure.status(), Some(400 | 416 | 500 | 501)) =>
            {
                match self.size(name)? {
                    0 => Ok(Bytes::new()),
                    size if size <= most => self.get(name, Part::All),
                    _ => Err(self.failed(Some(name), failure)),
                }
            }
            // The range begins where the object has ended.
            Err(failure) if range.is_some() && failure.status() == Some(416) => {
                self.size(name).map(|_| Bytes::new())
            }
            Err(failure) => Err(self.failed(Some(name), failure)),
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let key = self.key(name);
        let answer = self
            .call(&Request::new(Method::HEAD, &key).content(0))
            .map_err(|f| self.failed(Some(name), f))?;
        content_length(&answer.headers)
            .ok_or_else(|| self.broken(format!("it does not tell the size of {name}")))
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut token: Option<String> = None;
        loop {
            let page = self.list_page(prefix, token.as_deref())?;
            for object in page.contents {
                // What is not below the prefix or has no name of ours is somebody else's.
                let name = object.key.strip_prefix(&self.prefix).and_then(ObjectName::new);
                if let Some(name) = name.filter(|n| n.as_str().starts_with(prefix))
                    && found(ObjectInfo { name, size: object.size }).is_break()
                {
                    return Ok(());
                }
            }
            if !page.is_truncated {
                return Ok(());
            }
            let next = page.next_continuation_token.filter(|next| Some(next) != token.as_ref());
            token = Some(next.ok_or_else(|| self.broken("its listing does not go on where it ended"))?);
        }
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        if self.has_locks().unwrap_or(true) {
            self.refuse_locked(name)?;
        }
        let key = self.key(name);
        match self.call(&Request::new(Method::DELETE, &key)) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_no_key() => Ok(()),
            Err(failure) => Err(self.failed(Some(name), failure)),
        }
    }

    fn lock(&self, name: &ObjectName, until: WallTime) -> Result<Locked, StoreError> {
        self.lock_until(name, until)?;
        Ok(Locked::Everywhere)
    }

    fn reap(&self) -> Result<u64, StoreError> {
        self.reap_parts()
    }
}

/// As the headers tell it.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// All of a body, which must not be larger than `most` bytes.
async fn collect(
    mut body: object_store::client::HttpResponseBody,
    expected: Option<u64>,
    most: u64,
) -> Result<Bytes, Failure> {
    use http_body_util::BodyExt as _;
    let too_large = || Failure::TooLarge(most);
    if expected.is_some_and(|len| len > most) {
        return Err(too_large());
    }
    let mut all = BytesMut::with_capacity(usize::try_from(expected.unwrap_or(0)).map_err(|_| too_large())?);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Failure::transport)?.into_data() {
            if all.len() as u64 + data.len() as u64 > most {
                return Err(too_large());
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests;
