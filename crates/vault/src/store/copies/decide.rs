//! Who gets a name.
//!
//! A writer offers a small object to the copies in order until one takes it or has something; most of the time that is the
//! first, and whoever comes second meets the winner there. Then all the others get it at once.
//!
//! Where a copy has something else, what all copies hold is looked at. Bytes with a quorum have won; they take the place of
//! others. Where none have one, the bytes of the first copy that has any are put wherever there is nothing, which takes
//! nothing from anybody: copies' answers only ever turn from "nothing" into bytes, so a quorum once seen stays, and a
//! second one cannot come about. Where every copy holds something and nothing has a quorum (writers who could not see
//! each other's first copies), nobody has won, nobody can, and `repair` decides for the first copy's.
//!
//! A writer that stopped half-way has won nothing; who writes the name next completes what he began, or finds it complete.

use super::{AGREEING, Answered, Copies, GIVE_UP, SMALL, most, wait};
use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::{Put, Store as _};
use bytes::Bytes;
use std::sync::mpsc::{Sender, channel};

/// How often what the copies hold is looked at before a writer gives up.
const ROUNDS: usize = 4;

impl Copies {
    pub(super) fn decide(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        match self.offer(name, &body) {
            Offered::Taken => return Ok(Put::Created),
            Offered::Met => {}
            Offered::TooFew(e) => return Err(e),
        }
        for _ in 0..ROUNDS {
            if let Some(winner) = self.complete(name, &body)? {
                return Ok(if winner == body { Put::Created } else { Put::Exists });
            }
        }
        Err(StoreError::Broken {
            store: self.describe(),
            why: format!("the copies hold different objects as {name}: run `lifeboat vault repair`"),
        })
    }

    /// Puts bytes on copies that have nothing under that name.
    fn offer(&self, name: &ObjectName, body: &Bytes) -> Offered {
        let (to, from) = channel();
        let mut rest: Vec<usize> = (0..self.copies.len()).filter(|n| !self.copies[*n].is_away()).collect();
        for n in (0..self.copies.len()).filter(|n| !rest.contains(n)) {
            self.copies[n].lacks_one_more();
        }
        let (mut taken, mut failed) = (0, None);
        if body.len() < SMALL {
            // Writers of one name meet at the first copy.
            while taken == 0 && !rest.is_empty() {
                let n = rest.remove(0);
                match self.copies[n].call(|store| store.put_new(name, body.clone())) {
                    Ok(Put::Created) => taken = 1,
                    Ok(Put::Exists) => return Offered::Met,
                    Err(e) => self.note(n, e, &mut failed),
                }
            }
        }
        let mut open = rest.len();
        for n in rest {
            self.put_in_background(n, name, body, &to);
        }
        while open > 0 {
            // Beyond the quorum only what decides something is waited for, a little: a copy that holds something else gives way.
            let longest = match taken < self.quorum {
                true => GIVE_UP,
                false if body.len() < SMALL => AGREEING,
                false => break,
            };
            let Some((n, answer)) = wait(&from, longest) else { break };
            open -= 1;
            match answer {
                Ok(Put::Created) => taken += 1,
                Ok(Put::Exists) => return Offered::Met,
                Err(e) => self.note(n, e, &mut failed),
            }
        }
        match failed {
            _ if taken >= self.quorum => Offered::Taken,
            // What a person can do something about goes before "away".
            Some(e @ (StoreError::NoSpace(_) | StoreError::Denied { .. })) => Offered::TooFew(e),
            _ => Offered::TooFew(self.too_few(taken)),
        }
    }

    /// The first failure is told; one for want of space goes before others.
    fn note(&self, n: usize, e: StoreError, failed: &mut Option<StoreError>) {
        self.copies[n].lacks_one_more();
        if failed.is_none() || matches!(e, StoreError::NoSpace(_)) {
            *failed = Some(e);
        }
    }

    /// The write goes on when nobody waits for its answer any more.
    fn put_in_background(&self, n: usize, name: &ObjectName, body: &Bytes, to: &Sender<Answered<Put>>) {
        let copy = self.copies[n].clone();
        if !copy.begin_write(name, body.len()) {
            let _ = to.send((n, Err(copy.away_error())));
            return;
        }
        // Ends the write however the thread ends, also when it could not begin.
        let writing = Writing { copy: copy.clone(), name: name.clone(), bytes: body.len() };
        let body = body.clone();
        self.ask(n, to, move |store| {
            let put = store.put_new(&writing.name, body);
            if !matches!(put, Ok(Put::Created)) {
                writing.copy.lacks_one_more();
            }
            put
        });
    }

    /// Looks at what all copies hold, and brings it nearer to one winner: the bytes that have a quorum, once some have.
    fn complete(&self, name: &ObjectName, body: &Bytes) -> Result<Option<Bytes>, StoreError> {
        let values = self.values(name);
        let answered = values.iter().filter(|v| v.is_ok()).count();
        let mut held: Vec<(usize, Bytes)> = Vec::new();
        let mut free = Vec::new();
        for (n, value) in values.into_iter().enumerate() {
            match value {
                Ok(Some(bytes)) => held.push((n, bytes)),
                Ok(None) => free.push(n),
                Err(_) => {}
            }
        }
        let won = most(&held, self.quorum);
        let leader =
            won.clone().or_else(|| held.first().map(|(_, b)| b.clone())).unwrap_or_else(|| body.clone());
        let mut with = held.iter().filter(|(_, b)| *b == leader).count();
        for n in free {
            with += usize::from(self.give(n, name, &leader));
        }
        if won.is_some() {
            for (n, _) in held.iter().filter(|(_, b)| *b != leader) {
                let _held = self.mending.write();
                if self.copies[*n].call(|store| store.delete(name)).is_ok() {
                    self.give(*n, name, &leader);
                }
            }
        }
        if won.is_some() || with >= self.quorum {
            return Ok(Some(leader));
        }
        if answered < self.copies.len() { Err(self.too_few(answered)) } else { Ok(None) }
    }

    fn give(&self, n: usize, name: &ObjectName, body: &Bytes) -> bool {
        matches!(self.copies[n].call(|store| store.put_new(name, body.clone())), Ok(Put::Created))
    }
}

enum Offered {
    /// A quorum has it, and nothing else was met.
    Taken,
    /// A copy has something else under that name.
    Met,
    /// Too few copies answered.
    TooFew(StoreError),
}

struct Writing {
    copy: std::sync::Arc<super::Copy>,
    name: ObjectName,
    bytes: usize,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.copy.end_write(&self.name, self.bytes);
    }
}
