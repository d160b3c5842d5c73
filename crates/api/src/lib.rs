//! What crosses the boundaries of a site: the REST API's types and client, the lifecycle both ends
//! agree on, and the port through which control reaches the part of the site that moves data.

pub mod client;
pub mod lifecycle;
pub mod port;
pub mod tls;
pub mod types;
