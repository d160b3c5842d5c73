//! The client's side of the handshake: TLS where asked for, structured replies and `base:allocation` where
//! offered, then GO, or EXPORT_NAME for a server that knows no GO.

use super::transmit::Wire;
use super::{Agreed, ClientSettings, NbdError, largest_request};
use crate::proto::handshake::{
    EXPORT_NAME_PADDING, GREETING_LEN, Info, InfoRequest, MetaRequest, OPTION_REPLY_HEADER_LEN,
    OptionReplyHeader, parse_greeting, parse_meta_context, put_option,
};
use crate::proto::{BASE_ALLOCATION, MAX_STRING, handshake_flags, info, option, option_reply};
use lifeboat_base::limits::{MAX_DISK, MAX_NBD_OPTION, MAX_NBD_REQUEST};
use std::sync::Arc;

/// Most replies taken for one option.
const MAX_REPLIES: usize = 64;

/// The end of an option's replies.
enum Answer {
    Ack,
    Error { kind: u32, message: String },
}

pub(super) fn run(wire: &mut Wire, export: &str, settings: &ClientSettings) -> Result<Agreed, NbdError> {
    if export.len() > MAX_STRING {
        return Err(refused(export, format!("a name has at most {MAX_STRING} bytes")));
    }
    let mut greeting = [0; GREETING_LEN];
    wire.receive(&mut greeting)?;
    let server = parse_greeting(&greeting)?;
    if server & handshake_flags::FIXED_NEWSTYLE == 0 {
        return Err(refused(export, "the server does not speak fixed newstyle"));
    }
    let flags = server & (handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES);
    wire.transport.send(&u32::from(flags).to_be_bytes(), &[])?;
    start_tls(wire, export, settings)?;

    let mut agreed = Agreed { largest: MAX_NBD_REQUEST, ..Agreed::default() };
    let answer = ask(wire, option::STRUCTURED_REPLY, &[], |_, _| Ok(()))?;
    agreed.structured = matches!(answer, Answer::Ack);
    if agreed.structured {
        let bitmap = settings.bitmap.as_ref().map(|name| format!("qemu:dirty-bitmap:{name}"));
        agreed.bitmap = bitmap.is_some();
        let context = bitmap.unwrap_or_else(|| BASE_ALLOCATION.to_owned());
        let request = MetaRequest { name: export.to_owned(), queries: vec![context.clone()] };
        // A refusal only means that holes stay unknown; GO will tell what is wrong with the export.
        ask(wire, option::SET_META_CONTEXT, &request.build(), |kind, data| {
            if kind == option_reply::META_CONTEXT {
                let (id, name) = parse_meta_context(data)?;
                if name == context {
                    agreed.allocation = Some(id);
                }
            }
            Ok(())
        })?;
    }
    go(wire, export, &mut agreed, server & handshake_flags::NO_ZEROES != 0)?;
    if agreed.size > MAX_DISK {
        return Err(NbdError::lost(format!(
            "the export claims {} bytes, more than any disk has",
            agreed.size
        )));
    }
    Ok(agreed)
}

fn refused(export: &str, why: impl Into<String>) -> NbdError {
    NbdError::Refused { export: export.to_owned(), why: why.into() }
}

fn start_tls(wire: &mut Wire, export: &str, settings: &ClientSettings) -> Result<(), NbdError> {
    let Some(tls) = &settings.tls else {
        return Ok(());
    };
    if let Answer::Error { message, .. } = ask(wire, option::STARTTLS, &[], |_, _| Ok(()))? {
        return Err(refused(export, format!("it has no TLS ({message})")));
    }
    if wire.has_leftover() {
        return Err(NbdError::lost("the server sent more before TLS than it should"));
    }
    let session =
        rustls::ClientConnection::new(Arc::clone(&tls.config), tls.server.clone()).map_err(NbdError::lost)?;
    Ok(wire.transport.start_tls(session.into())?)
}

fn go(wire: &mut Wire, export: &str, agreed: &mut Agreed, no_zeroes: bool) -> Result<(), NbdError> {
    let request = InfoRequest { name: export.to_owned(), wanted: vec![info::BLOCK_SIZE] };
    let mut told = false;
    let answer = ask(wire, option::GO, &request.build(), |kind, data| {
        if kind == option_reply::INFO {
            match Info::parse(data)? {
                Info::Export { size, flags } => {
                    told = true;
                    (agreed.size, agreed.flags) = (size, flags);
                }
                Info::BlockSize { largest, .. } => agreed.largest = largest_request(largest),
                _ => {}
            }
        }
        Ok(())
    })?;
    match answer {
        Answer::Ack if told => Ok(()),
        Answer::Ack => Err(NbdError::lost("the server did not tell the export's size")),
        Answer::Error { kind: option_reply::ERR_UNSUP, .. } => export_name(wire, export, agreed, no_zeroes),
        Answer::Error { kind, message } => Err(refused(export, describe(kind, &message))),
    }
}

fn export_name(wire: &mut Wire, export: &str, agreed: &mut Agreed, no_zeroes: bool) -> Result<(), NbdError> {
    let mut out = Vec::new();
    put_option(&mut out, option::EXPORT_NAME, export.as_bytes());
    wire.transport.send(&out, &[])?;
    let mut answer = [0; 10];
    wire.receive(&mut answer).map_err(|_| refused(export, "the server hung up on its name"))?;
    let (size, flags) = answer.split_at(8);
    agreed.size = size.iter().fold(0, |v, b| v << 8 | u64::from(*b));
    agreed.flags = u16::from_be_bytes([flags[0], flags[1]]);
    if !no_zeroes {
        wire.receive(&mut [0; EXPORT_NAME_PADDING])?;
    }
    Ok(())
}

fn describe(kind: u32, message: &str) -> String {
    let what = match kind {
        option_reply::ERR_POLICY => "not allowed",
        option_reply::ERR_TLS_REQD => "it wants TLS",
        option_reply::ERR_UNKNOWN => "there is no such export",
        option_reply::ERR_INVALID => "it calls the request invalid",
        _ => "it gives an error",
    };
    if message.is_empty() { what.to_owned() } else { format!("{what} ({message})") }
}

/// Sends an option and hands each reply before the last to `take`.
fn ask(
    wire: &mut Wire,
    option: u32,
    data: &[u8],
    mut take: impl FnMut(u32, &[u8]) -> Result<(), NbdError>,
) -> Result<Answer, NbdError> {
    let mut out = Vec::new();
    put_option(&mut out, option, data);
    wire.transport.send(&out, &[])?;
    for _ in 0..MAX_REPLIES {
        let mut header = [0; OPTION_REPLY_HEADER_LEN];
        wire.receive(&mut header)?;
        let header = OptionReplyHeader::parse(&header)?;
        if header.option != option {
            return Err(NbdError::lost("the server answers an option that was not sent"));
        }
        if header.len as usize > MAX_NBD_OPTION {
            return Err(NbdError::lost(format!("the server sends an option reply of {} bytes", header.len)));
        }
        let mut data = vec![0; header.len as usize];
        wire.receive(&mut data)?;
        match header.kind {
            option_reply::ACK => return Ok(Answer::Ack),
            kind if kind & option_reply::ERROR != 0 => {
                let message = String::from_utf8_lossy(&data).chars().take(200).collect();
                return Ok(Answer::Error { kind, message });
            }
            kind => take(kind, &data)?,
        }
    }
    Err(NbdError::lost("the server does not end its replies to an option"))
}
