//! A file's content, to a file or to standard output.
//!
//! Invariant: a file appears under its name only when all of it came; what breaks off leaves nothing.

use super::export::asked_to_stop;
use crate::failure::{Failure, Outcome};
use crate::image::Draft;
use bytes::Bytes;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// Where pieces go.
pub type Sink<'a> = &'a mut dyn FnMut(Bytes) -> io::Result<()>;

/// Writes what `fetch` brings.
///
/// # Errors
/// When the file exists, cannot be written, or the content broke off.
pub async fn write_to(output: Option<&Path>, fetch: impl AsyncFnOnce(Sink<'_>) -> Outcome) -> Outcome {
    let Some(path) = output else {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            return Err(Failure::usage("a file's content is not written to a terminal")
                .hint("name a file with -o FILE, or pipe it somewhere"));
        }
        let mut sink = |piece: Bytes| out.write_all(&piece);
        fetch(&mut sink).await?;
        return out.flush().map_err(|e| Failure::io("write to standard output", &e));
    };
    let draft = Draft::new(path, false)?;
    let mut file = OpenOptions::new()
        .write(true)
        .open(draft.path())
        .map_err(|e| Failure::io(format_args!("write {}", path.display()), &e))?;
    let mut sink = |piece: Bytes| file.write_all(&piece);
    tokio::select! {
        fetched = fetch(&mut sink) => fetched?,
        () = asked_to_stop() => return Err(Failure::failed("stopped; nothing was written")),
    }
    draft.finish()
}

#[cfg(test)]
mod tests;
