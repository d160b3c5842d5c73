//! What requests about the vault and backups may say.

use super::{absolute, invalid, name, shown, text};
use lifeboat_api::types::{ApiError, BackupSet, HoldRequest, RestoreRequest, RetentionPreset, RetentionSpec};
use lifeboat_base::limits::MAX_TEXT;
use lifeboat_base::{PointSpec, WallTime};
use std::str::FromStr;

const MAX_RULES: usize = 16;
const MIN_EVERY: u64 = 60;
const MAX_EVERY: u64 = 366 * 86_400;
/// A hundred years.
const MAX_KEEP: u64 = 100 * 366 * 86_400;
const MAX_PATHS: usize = 64;
const MAX_EXCLUDES: usize = 256;
const MAX_SCHEDULE: usize = 256;

pub fn retention(r: &RetentionSpec) -> Result<(), ApiError> {
    if r.lock_seconds > MAX_KEEP {
        return Err(invalid("points can be locked for at most 100 years"));
    }
    if r.preset != RetentionPreset::Own {
        return match r.rules.is_empty() {
            true => Ok(()),
            false => {
                Err(invalid("only the preset 'own' has rules").hint("name the preset 'own', or no rules"))
            }
        };
    }
    if !(1..=MAX_RULES).contains(&r.rules.len()) {
        return Err(invalid(format!("own retention has 1 to {MAX_RULES} rules, not {}", r.rules.len()))
            .hint("such as 'every 1h for 2d'; the preset 'none' keeps only what a person names"));
    }
    for rule in &r.rules {
        if !(MIN_EVERY..=MAX_EVERY).contains(&rule.every_seconds) {
            return Err(invalid("a rule makes a point every 1 minute to 366 days"));
        }
        if rule.keep_seconds < rule.every_seconds || rule.keep_seconds > MAX_KEEP {
            return Err(invalid(
                "a rule keeps points at least as long as it waits between two, and 100 years at most",
            ));
        }
    }
    Ok(())
}

pub fn hold(h: &HoldRequest) -> Result<(), ApiError> {
    if let Some(n) = &h.name {
        name("a point", n)?;
        if PointSpec::parse(n, WallTime(0), &jiff::tz::TimeZone::UTC).is_ok() {
            return Err(invalid(format!("'{n}' cannot be the name of a point"))
                .hint("it means another point already: an id, an age, a time, or latest"));
        }
    }
    if h.name.is_some() && h.release {
        return Err(invalid("a point cannot be named and released at once"));
    }
    if h.lock_seconds.is_some_and(|s| !(1..=MAX_KEEP).contains(&s)) {
        return Err(invalid("a point can be locked for 1 second to 100 years"));
    }
    if h.name.is_none() && !h.release && h.lock_seconds.is_none() {
        return Err(invalid("nothing is changed by this").hint("name the point, release it, or lock it"));
    }
    Ok(())
}

pub fn backup_set(s: &BackupSet) -> Result<(), ApiError> {
    name("a backup set", &s.name)?;
    if let Some(agent) = &s.agent {
        text("the agent", agent)?;
    }
    if !(1..=MAX_PATHS).contains(&s.paths.len()) {
        return Err(invalid(format!("a backup set has 1 to {MAX_PATHS} paths, not {}", s.paths.len())));
    }
    s.paths.iter().try_for_each(|p| absolute("the path", p, MAX_TEXT).and_then(|()| plain("the path", p)))?;
    if s.exclude.len() > MAX_EXCLUDES {
        return Err(invalid(format!("a backup set has at most {MAX_EXCLUDES} exclude patterns")));
    }
    s.exclude.iter().try_for_each(|p| text("an exclude pattern", p))?;
    s.schedule.as_deref().map_or(Ok(()), schedule)?;
    retention(&s.retention)
}

fn schedule(cron: &str) -> Result<(), ApiError> {
    text("the schedule", cron)?;
    let bad = |why: String| {
        invalid(format!("'{}' is no schedule: {why}", shown(cron)))
            .hint("write minute, hour, day, month and weekday, such as '30 2 * * *' for 02:30 each night")
    };
    if cron.len() > MAX_SCHEDULE {
        return Err(bad(format!("it is longer than {MAX_SCHEDULE} bytes")));
    }
    let parsed = croner::Cron::from_str(cron).map_err(|e| bad(e.to_string()))?;
    let from = WallTime(0).to_jiff().to_zoned(jiff::tz::TimeZone::UTC);
    match parsed.find_next_occurrence(&from, false) {
        Ok(_) => Ok(()),
        Err(_) => Err(bad("no day is such a one".into())),
    }
}

pub fn restore(r: &RestoreRequest) -> Result<(), ApiError> {
    text("the backup", &r.backup)?;
    if r.paths.len() > MAX_EXCLUDES {
        return Err(invalid(format!("at most {MAX_EXCLUDES} paths are restored at once")));
    }
    r.paths.iter().try_for_each(|p| path_within(p))?;
    if let Some(agent) = &r.agent {
        text("the agent", agent)?;
    }
    directory(&r.target)
}

/// A directory of the site's host, or of an agent's.
pub fn directory(path: &str) -> Result<(), ApiError> {
    absolute("the directory", path, MAX_TEXT)?;
    plain("the directory", path)
}

/// What a path says is where it leads: '/srv/..' is not taken for something else than '/'.
fn plain(what: &str, path: &str) -> Result<(), ApiError> {
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err(invalid(format!("{what} '{}' has '.' or '..' in it", shown(path))));
    }
    Ok(())
}

/// A path within a backup or a disk; the root when it is empty. What it leads to is the data side's to judge.
pub fn path_within(path: &str) -> Result<(), ApiError> {
    if path.is_empty() { Ok(()) } else { text("the path", path) }
}
