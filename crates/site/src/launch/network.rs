//! The guest's user-mode network as the host sees it: free ports, and QEMU's own connection table.

use super::error::LaunchError;
use super::record::Forwarded;
use super::spec::Forward;
use std::net::{Ipv4Addr, TcpListener};

/// Gives every forward a host port. Ports are held together while choosing, so that they differ;
/// somebody may still take one before QEMU does, and the start is then tried again.
pub(super) fn choose_ports(forwards: &[Forward]) -> Result<Vec<Forwarded>, LaunchError> {
    let mut held = Vec::new();
    let mut out = Vec::new();
    for f in forwards {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, f.host_port.unwrap_or(0))).map_err(|e| {
            LaunchError::Spec(match f.host_port {
                Some(p) => {
                    format!("port {p} of this host cannot be used for guest port {}: {e}", f.guest_port)
                }
                None => format!("this host has no free port for guest port {}: {e}", f.guest_port),
            })
        })?;
        let host_port = listener.local_addr().map_or(0, |a| a.port());
        out.push(Forwarded { guest_port: f.guest_port, host_port });
        held.push(listener);
    }
    Ok(out)
}

/// How far the guest's side of a forwarded connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestSide {
    /// The guest's own TCP answered.
    Established,
    /// Asked, no answer yet.
    Waiting,
    /// No such connection (any more).
    Absent,
}

/// Reads the state of connections through a host port from `info usernet`:
/// ```text
/// Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
/// TCP[SYN_SENT]      19       127.0.0.1 18080       10.0.2.15    80     0     0
/// TCP[HOST_FORWARD]  14       127.0.0.1 18080       10.0.2.15    80     0     0
/// ```
/// QEMU accepts on the host before the guest does, so that a connect alone proves nothing.
pub(super) fn guest_side(usernet: &str, host_port: u16) -> GuestSide {
    let mut side = GuestSide::Absent;
    for line in usernet.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [state, _, "127.0.0.1", port, ..] = fields[..] else { continue };
        if port.parse() != Ok(host_port) {
            continue;
        }
        match state {
            "TCP[ESTABLISHED]" | "TCP[CLOSE_WAIT]" => return GuestSide::Established,
            "TCP[SYN_SENT]" => side = GuestSide::Waiting,
            _ => {}
        }
    }
    side
}

#[cfg(test)]
mod tests;
