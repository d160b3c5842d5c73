//! The streams of this process, for what the site asks of several at once.
//!
//! Invariant: of a group's servers here either all are held, or none.

use crate::stream::Stream;
use lifeboat_base::ServerId;
use lifeboat_base::limits::{MAX_GROUP, MAX_HOLD};
use lifeboat_replicate::message::{Cut, CutResult, Hold, HoldResult, ServerCut, Verify};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// See the module's text.
#[derive(Default)]
pub struct Streams {
    streams: Mutex<HashMap<ServerId, Arc<Stream>>>,
    /// Servers of the barrier under way.
    held: Mutex<Option<(u64, Vec<ServerId>)>>,
}

impl Streams {
    pub fn insert(&self, server: ServerId, stream: Arc<Stream>) {
        self.streams.lock().insert(server, stream);
    }

    pub fn remove(&self, server: ServerId) {
        self.streams.lock().remove(&server);
    }

    fn get(&self, server: ServerId) -> Option<Arc<Stream>> {
        self.streams.lock().get(&server).cloned()
    }

    /// First half of a group's barrier.
    pub fn hold(&self, request: &Hold) -> HoldResult {
        let limit = Duration::from_millis(request.limit_ms.into()).min(MAX_HOLD);
        let mut held = Vec::new();
        let refuse = |error: String| HoldResult { error };
        if request.servers.is_empty() || request.servers.len() > MAX_GROUP {
            return refuse(format!("a group of {} servers", request.servers.len()));
        }
        for id in &request.servers {
            let one = ServerId::from_slice(id).map_err(|e| e.to_string()).and_then(|id| {
                let stream = self.get(id).ok_or("it is not captured here")?;
                stream.hold(request.barrier, limit)?;
                Ok((id, stream))
            });
            match one {
                Ok(h) => held.push(h),
                Err(why) => {
                    held.iter().for_each(|(_, s)| s.abandon(request.barrier));
                    return refuse(why);
                }
            }
        }
        let ids = held.into_iter().map(|(id, _)| id).collect();
        *self.held.lock() = Some((request.barrier, ids));
        HoldResult::default()
    }

    /// Second half.
    pub fn cut(&self, request: &Cut) -> CutResult {
        let held = self.held.lock().take_if(|h| h.0 == request.barrier);
        let Some((barrier, servers)) = held else {
            return CutResult { cuts: Vec::new(), error: "nothing is held for this barrier".into() };
        };
        let mut cuts: Vec<ServerCut> = Vec::new();
        let mut error = String::new();
        for id in servers {
            let Some(stream) = self.get(id) else {
                error = "its capture was stopped".into();
                continue;
            };
            if request.abandon || !error.is_empty() {
                stream.abandon(barrier);
                continue;
            }
            match stream.cut(barrier) {
                Ok(cut) => cuts.push(ServerCut { server: id.as_bytes().to_vec(), ..cut }),
                Err(why) => error = why,
            }
        }
        if !error.is_empty() {
            cuts.clear();
        }
        CutResult { cuts, error }
    }

    pub fn verify(&self, request: &Verify) {
        let stream = ServerId::from_slice(&request.server).ok().and_then(|id| self.get(id));
        match stream {
            Some(stream) if request.cancel => stream.with_sender(|s| s.cancel_verify(request.id)),
            Some(stream) => stream.start_verify(request.id, request.rate),
            None => tracing::warn!("the site wants a server compared that is not captured here"),
        }
    }
}

#[cfg(test)]
mod tests;
