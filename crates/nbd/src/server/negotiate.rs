//! The server's side of the handshake.
//!
//! Invariants:
//! - where TLS is required, a client learns nothing before it: every option but `STARTTLS` and `ABORT` is refused;
//! - what was said before TLS does not count after it;
//! - an option's data is at most [`MAX_NBD_OPTION`] bytes; more is passed over or ends the connection.

use super::input::Input;
use super::{Export, Peer, Shared};
use crate::proto::handshake::{
    EXPORT_NAME_PADDING, Info, InfoRequest, MetaRequest, OPTION_HEADER_LEN, OptionHeader, greeting,
    meta_context, put_option_reply, server_entry,
};
use crate::proto::{BASE_ALLOCATION, MAX_STRING, export_flags, handshake_flags, info, option, option_reply};
use bytes::Bytes;
use lifeboat_base::limits::{MAX_NBD_OPTION, MAX_NBD_REQUEST};
use std::io;
use std::sync::Arc;

/// The id by which block status replies name `base:allocation`.
pub(super) const ALLOCATION_ID: u32 = 1;

const PREFERRED_BLOCK: u32 = 4096;

/// What the two sides agreed on.
pub(super) struct Chosen {
    pub export: Arc<Export>,
    pub structured: bool,
    /// `base:allocation` was chosen for this export.
    pub allocation: bool,
}

pub(super) enum Outcome {
    Serve(Chosen),
    /// The client left, or was asked to.
    Done,
}

/// A reply that says no.
struct Refusal {
    kind: u32,
    why: String,
}

fn refuse(kind: u32, why: impl ToString) -> Refusal {
    Refusal { kind, why: why.to_string() }
}

fn invalid(why: impl ToString) -> Refusal {
    refuse(option_reply::ERR_INVALID, why)
}

struct Negotiation<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    input: &'a mut Input,
    out: Vec<u8>,
    no_zeroes: bool,
    structured: bool,
    /// The export `base:allocation` was chosen for.
    allocation_of: Option<String>,
}

/// # Errors
/// When the socket fails, or the client breaks the protocol where no reply can say so.
pub(super) fn run(shared: &Shared, peer: &Peer, input: &mut Input) -> io::Result<Outcome> {
    let mut n = Negotiation {
        shared,
        peer,
        input,
        out: Vec::new(),
        no_zeroes: false,
        structured: false,
        allocation_of: None,
    };
    peer.transport.send(&greeting(handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES), &[])?;
    let Some(flags) = n.receive(4)? else {
        return Ok(Outcome::Done);
    };
    let flags = u32::from_be_bytes([flags[0], flags[1], flags[2], flags[3]]);
    let known = u32::from(handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES);
    if flags & !known != 0 {
        return Err(bad(format!("unknown client flags {flags:#x}")));
    }
    n.no_zeroes = flags & u32::from(handshake_flags::NO_ZEROES) != 0;
    loop {
        let Some(header) = n.receive(OPTION_HEADER_LEN)? else {
            return Ok(Outcome::Done);
        };
        let header = OptionHeader::parse(&header).map_err(bad)?;
        let len = header.len as usize;
        let outcome = if len > MAX_NBD_OPTION {
            n.pass_over(header.option, len)?
        } else {
            let Some(data) = n.receive(len)? else {
                return Ok(Outcome::Done);
            };
            n.answer(header.option, &data)?
        };
        let out = std::mem::take(&mut n.out);
        n.peer.transport.send(&out, &[])?;
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
}

fn bad(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl Negotiation<'_> {
    /// The next `len` bytes; none when the stream ends or the server stops.
    fn receive(&mut self, len: usize) -> io::Result<Option<Bytes>> {
        while !self.input.has(len) {
            if self.peer.is_stopping() || !self.input.receive(&self.peer.transport, len)? {
                return Ok(None);
            }
        }
        Ok(Some(self.input.take(len)))
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        put_option_reply(&mut self.out, option, kind, data);
    }

    /// Refuses an option whose data is too long, without keeping it.
    fn pass_over(&mut self, option: u32, len: usize) -> io::Result<Option<Outcome>> {
        if len > MAX_NBD_REQUEST || option == option::EXPORT_NAME {
            return Err(bad(format!("option {option} claims {len} bytes of data")));
        }
        let mut left = len;
        while left > 0 {
            let Some(part) = self.receive(left.min(MAX_NBD_OPTION))? else {
                return Ok(Some(Outcome::Done));
            };
            left -= part.len();
        }
        let why = format!("at most {MAX_NBD_OPTION} bytes of option data are accepted");
        self.reply(option, option_reply::ERR_TOO_BIG, why.as_bytes());
        Ok(None)
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> io::Result<Option<Outcome>> {
        let needs_tls = self.shared.settings.tls.is_some() && !self.peer.transport.is_tls();
        let result = match option {
            option::ABORT => {
                self.reply(option, option_reply::ACK, &[]);
                // The client may hang up without reading the answer.
                let out = std::mem::take(&mut self.out);
                let _ = self.peer.transport.send(&out, &[]);
                return Ok(Some(Outcome::Done));
            }
            option::STARTTLS => match self.start_tls(data)? {
                Ok(()) => return Ok(None),
                Err(refusal) => Err(refusal),
            },
            option::EXPORT_NAME if needs_tls => return Err(bad("EXPORT_NAME without TLS")),
            _ if needs_tls => {
                Err(refuse(option_reply::ERR_TLS_REQD, "this server speaks to nobody without TLS"))
            }
            option::EXPORT_NAME => return self.export_name(data).map(Some),
            option::LIST => self.list(data),
            option::INFO => self.info(option, data).map(drop),
            option::GO => match self.info(option, data) {
                Ok(chosen) => return Ok(Some(Outcome::Serve(chosen))),
                Err(refusal) => Err(refusal),
            },
            option::STRUCTURED_REPLY if !data.is_empty() => Err(invalid("this option takes no data")),
            option::STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(option, option_reply::ACK, &[]);
                Ok(())
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data),
            _ => Err(refuse(option_reply::ERR_UNSUP, "this server does not know the option")),
        };
        if let Err(refusal) = result {
            self.reply(option, refusal.kind, refusal.why.as_bytes());
        }
        Ok(None)
    }

    fn start_tls(&mut self, data: &[u8]) -> io::Result<Result<(), Refusal>> {
        let Some(config) = &self.shared.settings.tls else {
            return Ok(Err(refuse(option_reply::ERR_POLICY, "this server has no TLS")));
        };
        if self.peer.transport.is_tls() {
            return Ok(Err(invalid("TLS is on already")));
        }
        if !data.is_empty() {
            return Ok(Err(invalid("this option takes no data")));
        }
        if !self.input.buffered().is_empty() {
            // Somebody may have put words into the client's mouth; they must not be taken for sealed ones.
            return Err(bad("data follows STARTTLS before the handshake"));
        }
        let session = rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        self.reply(option::STARTTLS, option_reply::ACK, &[]);
        let out = std::mem::take(&mut self.out);
        self.peer.transport.send(&out, &[])?;
        self.peer.transport.start_tls(session.into())?;
        self.structured = false;
        self.allocation_of = None;
        Ok(Ok(()))
    }

    fn list(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if !data.is_empty() {
            return Err(invalid("this option takes no data"));
        }
        for (name, description) in self.shared.exports.list() {
            self.reply(option::LIST, option_reply::SERVER, &server_entry(&name, &description));
        }
        self.reply(option::LIST, option_reply::ACK, &[]);
        Ok(())
    }

    /// The export flags a client is told.
    fn flags(&self, export: &Export) -> u16 {
        let mut flags = export_flags::HAS_FLAGS | export_flags::SEND_FLUSH | export_flags::SEND_CACHE;
        if export.device.read_only() {
            flags |= export_flags::READ_ONLY;
        } else {
            flags |= export_flags::SEND_FUA | export_flags::SEND_TRIM | export_flags::SEND_WRITE_ZEROES;
        }
        if self.structured {
            flags |= export_flags::SEND_DF;
        }
        if export.multi_conn {
            flags |= export_flags::CAN_MULTI_CONN;
        }
        flags
    }

    /// Finds the export a client wants to use. Its name is known outside first, so that an export that is
    /// removed and then disconnected never keeps this client.
    fn choose(&self, name: &str) -> Option<Chosen> {
        *self.peer.export.lock() = Some(name.to_owned());
        let export = self.shared.exports.get(name);
        if export.is_none() {
            *self.peer.export.lock() = None;
        }
        let allocation = self.structured && self.allocation_of.as_deref() == Some(name);
        Some(Chosen { export: export?, structured: self.structured, allocation })
    }

    fn export_name(&mut self, data: &[u8]) -> io::Result<Outcome> {
        let name = std::str::from_utf8(data).map_err(bad)?;
        let chosen = (name.len() <= MAX_STRING).then(|| self.choose(name)).flatten();
        // This option knows no way to say no.
        let chosen = chosen.ok_or_else(|| bad("EXPORT_NAME for an export that does not exist"))?;
        self.out.extend_from_slice(&chosen.export.device.size().to_be_bytes());
        let flags = self.flags(&chosen.export);
        self.out.extend_from_slice(&flags.to_be_bytes());
        if !self.no_zeroes {
            self.out.extend_from_slice(&[0; EXPORT_NAME_PADDING]);
        }
        Ok(Outcome::Serve(chosen))
    }

    /// `INFO` and `GO`, which differ only in what follows.
    fn info(&mut self, option: u32, data: &[u8]) -> Result<Chosen, Refusal> {
        let request = InfoRequest::parse(data).map_err(invalid)?;
        let name = &request.name;
        let unknown = || refuse(option_reply::ERR_UNKNOWN, format!("there is no export {name:?}"));
        let chosen = if option == option::GO {
            self.choose(name).ok_or_else(unknown)?
        } else {
            let export = self.shared.exports.get(name).ok_or_else(unknown)?;
            Chosen { export, structured: self.structured, allocation: false }
        };
        let export = &chosen.export;
        let mut infos = vec![
            Info::Export { size: export.device.size(), flags: self.flags(export) },
            Info::BlockSize { minimum: 1, preferred: PREFERRED_BLOCK, largest: MAX_NBD_REQUEST as u32 },
        ];
        if request.wanted.contains(&info::NAME) {
            infos.push(Info::Name(name.clone()));
        }
        if request.wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            infos.push(Info::Description(export.description.clone()));
        }
        for info in infos {
            self.reply(option, option_reply::INFO, &info.build());
        }
        self.reply(option, option_reply::ACK, &[]);
        Ok(chosen)
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<(), Refusal> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            // A new choice replaces the old one even when it fails.
            self.allocation_of = None;
        }
        if !self.structured {
            return Err(invalid("ask for structured replies first"));
        }
        let request = MetaRequest::parse(data).map_err(invalid)?;
        if self.shared.exports.get(&request.name).is_none() {
            return Err(refuse(option_reply::ERR_UNKNOWN, format!("there is no export {:?}", request.name)));
        }
        let asked = |q: &str| request.queries.iter().any(|have| have == q);
        let found = if setting {
            asked(BASE_ALLOCATION)
        } else {
            request.queries.is_empty() || asked(BASE_ALLOCATION) || asked("base:")
        };
        if found {
            let id = if setting { ALLOCATION_ID } else { 0 };
            self.reply(option, option_reply::META_CONTEXT, &meta_context(id, BASE_ALLOCATION));
        }
        self.reply(option, option_reply::ACK, &[]);
        if setting && found {
            self.allocation_of = Some(request.name);
        }
        Ok(())
    }
}
