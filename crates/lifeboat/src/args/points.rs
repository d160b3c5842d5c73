//! Points, mounts, images.

use super::vault::named_point;
use clap::Args;
use std::path::PathBuf;

const POINT_FORMS: &str = "\
A point is written as:
  latest                          the newest one
  p1.4711                         a point's id
  before-upgrade                  the name it was given
  20s, 5m, 2h, 1d                 an age
  '2026-11-20 03:14:15'           a moment, UTC
  2026-11-20T03:14:15+01:00       a moment with its zone";

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct PointsArgs {
    /// Name of the server
    pub name: String,
    /// Only the newest point at or before this moment
    #[arg(long, value_name = "POINT", value_parser = named_point, conflicts_with_all = ["from", "to", "limit"])]
    pub at: Option<String>,
    /// Oldest to list
    #[arg(long, value_name = "POINT", value_parser = named_point)]
    pub from: Option<String>,
    /// Newest to list
    #[arg(long, value_name = "POINT", value_parser = named_point)]
    pub to: Option<String>,
    /// Most lines; points are thinned evenly to it
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct MountArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = named_point)]
    pub point: String,
    /// A divergent branch instead of a point, as `branches` shows it
    #[arg(long, value_name = "ID", conflicts_with = "point")]
    pub branch: Option<String>,
    /// Allow writes, into an overlay that is thrown away
    #[arg(long)]
    pub writable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lifeboat export web-1 --point '2026-11-20 03:14:15' --format qcow2 -o web-1.qcow2")]
pub struct ExportArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = named_point)]
    pub point: String,
    /// A divergent branch instead of a point, as `branches` shows it
    #[arg(long, value_name = "ID", conflicts_with = "point")]
    pub branch: Option<String>,
    #[arg(long, value_enum, default_value = "raw")]
    pub format: ImageFormat,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Index of the disk, where the server has several
    #[arg(long, value_name = "N")]
    pub disk: Option<u16>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Writes DIR/disk0.qcow2, DIR/disk1.qcow2, ... and says how to run or protect the clone.
Protecting it costs almost nothing: its content is known to the vault already.
Example:
  lifeboat clone web-1 --point before-upgrade --to /srv/clones/web-1-test")]
pub struct CloneArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = named_point)]
    pub point: String,
    /// Directory to write; must be empty or absent
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    #[arg(long, value_enum, default_value = "qcow2")]
    pub format: ImageFormat,
}
