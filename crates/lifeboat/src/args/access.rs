//! Tokens, agents and the audit log.

use super::values::duration;
use clap::{ArgGroup, Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Reads
    Viewer,
    /// Reads, drills, mounts, fails over
    Operator,
    /// Everything, tokens and agents included
    Admin,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown once
    #[command(after_help = "\
Examples:
  lifeboat token create --agent --name host-a
  lifeboat token create --role operator --name anna --ttl 90d")]
    Create(TokenCreateArgs),
    /// List tokens, without their secrets
    List,
    /// End a token now
    Revoke {
        /// Id of the token, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true)))]
pub struct TokenCreateArgs {
    /// A one-time token with which an agent joins
    #[arg(long, group = "kind")]
    pub agent: bool,
    /// A token for a person or a program
    #[arg(long, value_enum, group = "kind")]
    pub role: Option<Role>,
    /// For agents the agent's name, for people a name in the audit log
    #[arg(long)]
    pub name: Option<String>,
    /// How long it is valid [default: agents 1h, people for ever]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct AgentsArgs {
    #[command(subcommand)]
    pub command: Option<AgentsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum AgentsCommand {
    /// Refuse an agent from now on and cut its sessions
    Revoke {
        /// Name or id of the agent
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    /// Most lines, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no entry was changed or removed
    Verify,
}
