//! Logs on stderr: with journald's priorities when it listens, with times otherwise.

use crate::failure::{Failure, Outcome};
use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging for the life of the process.
///
/// # Errors
/// When `filter` cannot be read.
pub fn start(filter: &str) -> Outcome {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        Failure::usage(format!("'{filter}' is no log filter: {e}"))
            .hint("write error, warn, info, debug, trace, or for example info,lifeboat_site=debug")
    })?;
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if std::env::var_os("JOURNAL_STREAM").is_some() {
        base.event_format(Journald(format().without_time().with_ansi(false).with_level(false))).try_init()
    } else {
        base.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    set.map_err(|e| Failure::failed(format!("cannot start logging: {e}")))
}

/// `<6>target: message`, as sd-daemon(3) wants it.
struct Journald(Format<format::Full, ()>);

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(ctx, writer, event)
    }
}
