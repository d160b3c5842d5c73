//! The part of a site that decides and remembers: rules, operations, people, agents, and the REST API.
//!
//! How to compose it:
//!
//! ```text
//! init::init(dir, ...)                                  once; makes CA, store and the first admin token
//!
//! let store = init::open_store(dir, clock).await?;      each start
//! let ca    = Arc::new(init::load_ca(dir)?);
//! let gate  = Gate::open(store.clone(), ca, ...).await?;   the ControlPort, for the data side
//! let site  = (the data side, built with the gate)         the SitePort
//! let app   = App::new(store, gate, site, clock, entropy, ControlConfig { .. });
//! app.start();
//! http::serve(listener, tls, app.clone(), shutdown).await;
//! app.stop().await;
//! ```
//!
//! Invariants are stated by module: [`store`], [`app`], [`policy`], [`gate`], [`ca`].

pub mod app;
pub mod ca;
#[cfg(test)]
mod fake;
pub mod gate;
pub mod http;
pub mod init;
pub mod kit;
mod limit;
pub mod policy;
mod secret;
pub mod store;
mod validate;

pub use app::{App, ControlConfig};
pub use ca::{AGENT_LIFE, Ca, Identity};
pub use gate::Gate;
pub use http::{openapi_json, serve};
