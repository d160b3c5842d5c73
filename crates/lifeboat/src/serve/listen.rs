//! Taking a port, with an error that says which and what to do.

use crate::failure::{Failure, Outcome};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

/// Binds `address` for `what` (`api` or `replication`). Non-blocking, ready for tokio.
///
/// # Errors
/// When the port is taken, not allowed, or the address is not this host's.
pub fn bind(what: &str, address: SocketAddr) -> Outcome<TcpListener> {
    let listener = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
    listener.map_err(|e| {
        let failure = Failure::failed(format!("cannot listen on {address} ({what}.listen): {}", plain(&e)));
        failure.hint(match e.kind() {
            ErrorKind::AddrInUse => {
                format!(
                    "end what uses it (ss -ltnp 'sport = :{}'), or change {what}.listen in site.toml",
                    address.port()
                )
            }
            ErrorKind::PermissionDenied => {
                format!("choose a port over 1023 in {what}.listen, or grant CAP_NET_BIND_SERVICE")
            }
            _ => format!("{what}.listen in site.toml must be an address of this host"),
        })
    })
}

fn plain(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::AddrInUse => "the port is taken".into(),
        ErrorKind::AddrNotAvailable => "this host has no such address".into(),
        _ => e.to_string(),
    }
}

/// Where it really listens: a configured port 0 is any free one.
pub fn address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|e| format!("unknown ({e})"), |a| a.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_says_so() {
        let held = bind("api", "127.0.0.1:0".parse().unwrap()).unwrap();
        let failure = bind("api", held.local_addr().unwrap()).unwrap_err();
        assert!(failure.message.contains("the port is taken"), "{failure}");
        assert!(failure.hint.unwrap().contains("api.listen"));
    }
}
