use super::*;
use crate::render::fixtures::*;

#[test]
fn one_server_is_told_in_full() {
    let text = full(&server("web-1", ServerState::Replicating), NOW, Style::PLAIN);
    for line in [
        "state         replicating, epoch 1",
        "protected     2025-12-31 00:00:00 UTC (24 h ago)",
        "agent         host-a (connected)",
        "capture       mirror by /run/vm/web-1.qmp, every writable disk; attached",
        "disk 0        disk0, 8.0 GiB",
        "rpo           320 ms (lag 0 B)",
        "newest point  p1.4711 at 2025-12-31 23:59:59 (1 s ago)",
        "window        24 h or 64.0 GiB; journal is 3.0 GiB",
        "machine       1 cpu, 1.0 GiB, network isolated, virtio, bios",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
}

#[test]
fn a_server_whose_agent_is_gone_is_offline() {
    let mut gone = server("web-1", ServerState::InitialSync);
    gone.runtime.connected = false;
    gone.runtime.health = Health::Unknown;
    assert!(table(&[gone], NOW, Style::PLAIN, "").contains("offline"));
}
