//! What the API answered, as text for people. Pure: the same answer and moment give the same text.

pub mod admin;
pub mod backups;
pub mod groups;
pub mod operations;
pub mod points;
pub mod runs;
pub mod servers;
pub mod status;
pub mod table;
pub mod text;
pub mod vault;
pub mod watch;

#[cfg(test)]
pub mod fixtures;
