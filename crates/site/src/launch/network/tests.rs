#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn chosen_ports_are_free_and_differ() {
    let any = |guest_port| Forward { guest_port, host_port: None };
    let ports = choose_ports(&[any(80), any(22), any(443)]).unwrap();
    let mut host: Vec<u16> = ports.iter().map(|p| p.host_port).collect();
    host.sort_unstable();
    host.dedup();
    assert!(host.len() == 3 && host[0] > 0);
    assert_eq!(ports[1].guest_port, 22);
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let e = choose_ports(&[Forward { guest_port: 80, host_port: Some(port) }]).unwrap_err().to_string();
    assert!(e.contains(&format!("port {port} of this host cannot be used for guest port 80")), "{e}");
}

#[test]
fn the_connection_table_tells_the_guests_side() {
    let table = |state: &str| {
        format!(
            "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
             TCP[{state}]  19       127.0.0.1 18080       10.0.2.15    80     0     0\r\n  \
             TCP[HOST_FORWARD]  14       127.0.0.1 18080       10.0.2.15    80     0     0\r\n"
        )
    };
    assert_eq!(guest_side(&table("SYN_SENT"), 18080), GuestSide::Waiting);
    assert_eq!(guest_side(&table("ESTABLISHED"), 18080), GuestSide::Established);
    assert_eq!(guest_side(&table("ESTABLISHED"), 1808), GuestSide::Absent);
    assert_eq!(guest_side(&table("CLOSED"), 18080), GuestSide::Absent);
    assert_eq!(guest_side("", 80), GuestSide::Absent);
}
