//! `[vault]` of `site.toml`: where points that last are kept.

use crate::args::values::size;
use crate::args::vault::PlaceArgs;
use crate::failure::{Failure, Outcome};
use serde::{Deserialize, Deserializer};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the vault is kept unless something else is said, within the state directory.
pub const DEFAULT_LOCATION: &str = "vault";
const MAX_COPIES: usize = 8;

/// One place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Directory, or `s3://BUCKET/PREFIX`.
    pub location: String,
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub path_style: bool,
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub access_key_file: Option<PathBuf>,
    /// Section of that file.
    #[serde(default)]
    pub profile: Option<String>,
    #[serde(default)]
    pub allow_http: bool,
}

impl Place {
    pub fn new(location: &str, args: &PlaceArgs) -> Self {
        Self {
            location: location.into(),
            endpoint: args.endpoint.clone(),
            region: args.region.clone(),
            path_style: args.path_style,
            ca: args.ca.clone(),
            access_key_file: args.access_key_file.clone(),
            profile: args.profile.clone(),
            allow_http: args.allow_http,
        }
    }

    /// As a person names it on the command line: a relative directory is one of where they are.
    ///
    /// # Errors
    /// When it cannot be named from the root.
    pub fn named(location: &str, args: &PlaceArgs) -> Outcome<Self> {
        if location.contains("://") {
            return Ok(Self::new(location, args));
        }
        let full =
            std::path::absolute(location).map_err(|e| Failure::io(format_args!("find {location}"), &e))?;
        let full = full.to_str().ok_or_else(|| {
            Failure::usage(format!("'{location}' is not UTF-8"))
                .hint("choose another directory for the vault")
        })?;
        Ok(Self::new(full, args))
    }

    pub fn is_s3(&self) -> bool {
        self.location.starts_with("s3://")
    }

    /// The directory of a local place, from the state directory `dir`.
    pub fn directory(&self, dir: &Path) -> PathBuf {
        dir.join(&self.location)
    }

    /// What is impossible about it, for people.
    ///
    /// # Errors
    /// A text that follows its key.
    pub fn check(&self) -> Result<(), String> {
        if self.location.is_empty() || self.location.chars().any(char::is_control) {
            return Err("is empty: write a directory, or s3://BUCKET/PREFIX".into());
        }
        if !self.is_s3() && self.location.contains("://") {
            return Err(format!("'{}' is no place: write a directory, or s3://BUCKET/PREFIX", self.location));
        }
        let object = self.endpoint.is_some()
            || self.region.is_some()
            || self.path_style
            || self.ca.is_some()
            || self.access_key_file.is_some()
            || self.profile.is_some()
            || self.allow_http;
        if object && !self.is_s3() {
            return Err(format!(
                "'{}' is a directory, and endpoint, region, path_style, ca, access_key_file, profile and allow_http are \
                 for s3://",
                self.location
            ));
        }
        Ok(())
    }
}

/// Bytes, written as a number or as `32MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(from) {
            Ok(Written::Number(n)) => Ok(Self(n)),
            Ok(Written::Text(text)) => size(&text).map(Self).map_err(serde::de::Error::custom),
            Err(_) => Err(serde::de::Error::custom("write a size such as \"32MiB\"")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vault {
    /// There is none: points end with the journal.
    pub off: bool,
    pub location: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: bool,
    pub ca: Option<PathBuf>,
    pub access_key_file: Option<PathBuf>,
    pub profile: Option<String>,
    pub allow_http: bool,
    pub copies: Vec<Place>,
    /// Places a write must reach; more than half.
    pub quorum: Option<u32>,
    /// Bytes a scrub reads per second; 0 for no limit.
    pub scrub_rate: Rate,
    /// Bytes per second that go from journals to the vault; 0 for no limit.
    pub tier_rate: Rate,
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            off: false,
            location: DEFAULT_LOCATION.into(),
            endpoint: None,
            region: None,
            path_style: false,
            ca: None,
            access_key_file: None,
            profile: None,
            allow_http: false,
            copies: Vec::new(),
            quorum: None,
            scrub_rate: Rate(32 << 20),
            tier_rate: Rate(0),
        }
    }
}

impl Vault {
    /// As flags say; `none` for no vault.
    ///
    /// # Errors
    /// When a directory cannot be named from the root.
    pub fn from_args(location: Option<&str>, args: &PlaceArgs) -> Outcome<Self> {
        match location {
            Some("none") => Ok(Self { off: true, ..Self::default() }),
            None => Ok(Self::at(Place::new(DEFAULT_LOCATION, args))),
            Some(location) => Ok(Self::at(Place::named(location, args)?)),
        }
    }

    pub fn at(p: Place) -> Self {
        Self {
            location: p.location,
            endpoint: p.endpoint,
            region: p.region,
            path_style: p.path_style,
            ca: p.ca,
            access_key_file: p.access_key_file,
            profile: p.profile,
            allow_http: p.allow_http,
            ..Self::default()
        }
    }

    /// All places, the one named in `[vault]` first.
    pub fn places(&self) -> Vec<Place> {
        let first = Place {
            location: self.location.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ca: self.ca.clone(),
            access_key_file: self.access_key_file.clone(),
            profile: self.profile.clone(),
            allow_http: self.allow_http,
        };
        std::iter::once(first).chain(self.copies.iter().cloned()).collect()
    }

    /// Places a write must reach: as said, or just more than half.
    pub fn quorum(&self) -> u32 {
        let places = u32::try_from(self.places().len()).unwrap_or(u32::MAX);
        self.quorum.unwrap_or(places / 2 + 1)
    }

    /// Values that are well-formed and still impossible, with their key.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.off {
            return Ok(());
        }
        let places = self.places();
        for (n, place) in places.iter().enumerate() {
            let key = if n == 0 { "vault.location" } else { "vault.copies" };
            place.check().map_err(|why| (key, why))?;
            if places[..n].iter().any(|p| p.location == place.location && p.endpoint == place.endpoint) {
                return Err((key, format!("'{}' is named twice", place.location)));
            }
        }
        if places.len() > MAX_COPIES {
            return Err(("vault.copies", format!("a vault is kept in at most {MAX_COPIES} places")));
        }
        let all = u32::try_from(places.len()).unwrap_or(u32::MAX);
        let quorum = self.quorum();
        if quorum > all || quorum <= all / 2 {
            return Err((
                "vault.quorum",
                format!(
                    "{quorum} of {all} places: a write must reach more than half, or two sites could both win"
                ),
            ));
        }
        Ok(())
    }

    /// The commented section that `init` writes.
    pub fn to_text(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut out = format!(
            "\
[vault]
# Where points that outlive the journal, and backups of files, are kept: a directory (a relative one is within this
# one), or s3://BUCKET/PREFIX. More places: [[vault.copies]] with the same keys, and quorum (how many a write must
# reach). Its key is keys/vault.key: make a recovery kit, `lifeboat vault key kit`.
location = {}
# true: there is no vault.
off = {}
# What a scrub reads back per second at most.
scrub_rate = {}
# What goes from journals to the vault per second at most; 0 for no limit.
tier_rate = {}
",
            quoted(&self.location),
            self.off,
            self.scrub_rate.0,
            self.tier_rate.0,
        );
        let mut add = |comment: &str, key: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = writeln!(out, "# {comment}\n{key} = {value}");
            }
        };
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| quoted(&p.display().to_string()));
        let flag = |on: bool| on.then(|| "true".to_string());
        add("S3 endpoint.", "endpoint", self.endpoint.as_deref().map(quoted));
        add("S3 region.", "region", self.region.as_deref().map(quoted));
        add("The bucket is in the path, not in the host name.", "path_style", flag(self.path_style));
        add("Authority that signed the endpoint's certificate, PEM.", "ca", path(&self.ca));
        add(
            "Access key, as AWS's own tools have it ([default], aws_access_key_id = ..., aws_secret_access_key = ...).",
            "access_key_file",
            path(&self.access_key_file),
        );
        add("Section of that file.", "profile", self.profile.as_deref().map(quoted));
        add("The endpoint has no https.", "allow_http", flag(self.allow_http));
        out
    }
}
