//! What a service's answers mean to who called, and what to do next.

use super::wire::{Failure, Wire};
use crate::error::StoreError;
use crate::id::ObjectName;
use object_store::client::HttpErrorKind;

pub(super) fn store_error(wire: &Wire, name: Option<&ObjectName>, failure: Failure) -> StoreError {
    let store = wire.describe().to_string();
    if let (Some(name), true) = (name, failure.is_no_key()) {
        return StoreError::NotFound(name.clone());
    }
    let broken = |why: String| StoreError::Broken { store: store.clone(), why };
    match &failure {
        Failure::Answered { status, code, message, region } => {
            answered(wire, *status, code, message, region.as_deref(), failure.is_transient())
        }
        Failure::Credentials(why) => StoreError::Denied {
            store,
            why: format!(
                "there are no access keys ({why}): name a file of them (access_key_file), or set AWS_ACCESS_KEY_ID \
                 and AWS_SECRET_ACCESS_KEY"
            ),
        },
        Failure::Transport { kind, why } => StoreError::Unreachable { store, why: transport(*kind, why) },
        Failure::Slow(after) => StoreError::Unreachable {
            store,
            why: format!("no answer within {} s", after.as_secs_f32().ceil()),
        },
        Failure::TooLarge(most) => broken(format!("it answered more than the {most} bytes there may be")),
        Failure::Invalid(why) => broken(format!("it cannot be asked: {why}")),
    }
}

fn answered(
    wire: &Wire,
    status: u16,
    code: &str,
    message: &str,
    region: Option<&str>,
    transient: bool,
) -> StoreError {
    let store = wire.describe().to_string();
    let said = match (code, message) {
        ("", _) => format!("status {status}"),
        (code, "") => format!("{code}, status {status}"),
        (code, message) => format!("{code}, status {status}: {message}"),
    };
    let denied = |why: &str| StoreError::Denied { store: store.clone(), why: format!("{why} ({said})") };
    let broken = |why: &str| StoreError::Broken { store: store.clone(), why: format!("{why} ({said})") };
    match code {
        "NoSuchBucket" => {
            let bucket = &wire.settings().bucket;
            return broken(&format!("there is no bucket {bucket}: create it, or correct the name"));
        }
        "InvalidAccessKeyId" => return denied("it does not know the access key: correct it"),
        "SignatureDoesNotMatch" => return denied("the secret access key is not the right one: correct it"),
        "ExpiredToken" | "InvalidToken" => {
            return denied("the session's token is no longer valid: get a new one");
        }
        "RequestTimeTooSkewed" => {
            return denied("this machine's clock differs from the service's: set it right");
        }
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "NotEnoughSpace" => {
            return StoreError::NoSpace(store);
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IncorrectEndpoint" | "TemporaryRedirect" => {
            return elsewhere(&store, region, &said);
        }
        _ => {}
    }
    match status {
        507 => StoreError::NoSpace(store),
        301 | 302 | 307 | 308 => elsewhere(&store, region, &said),
        401 | 403 => denied(
            "the access key needs the rights to get, put, delete and list objects, to abort uploads, and with locks \
             to get and put retention",
        ),
        501 => broken("it does not know a request a vault needs"),
        _ if transient => StoreError::Unreachable { store, why: said },
        _ => broken("it refused a request"),
    }
}

fn elsewhere(store: &str, region: Option<&str>, said: &str) -> StoreError {
    let set = region.map_or_else(|| "set its region or endpoint".into(), |r| format!("set region to {r}"));
    StoreError::Broken { store: store.into(), why: format!("the bucket is elsewhere: {set} ({said})") }
}

fn transport(kind: HttpErrorKind, why: &str) -> String {
    let lower = why.to_ascii_lowercase();
    if lower.contains("certificate") {
        return format!("its certificate is not trusted: name the authority's file (ca) ({why})");
    }
    if lower.contains("dns") || lower.contains("lookup") {
        return format!("its name cannot be resolved: check the endpoint ({why})");
    }
    if lower.contains("refused") {
        return format!(
            "the connection is refused: check the endpoint and its port, and whether it runs ({why})"
        );
    }
    match kind {
        HttpErrorKind::Connect => format!("no connection: check the endpoint and the network ({why})"),
        _ => format!("the connection broke off ({why})"),
    }
}
