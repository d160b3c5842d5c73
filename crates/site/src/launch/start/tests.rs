use super::*;

#[test]
fn qemus_words_become_what_to_do() {
    let why = |log, network| explain(log, &network).unwrap_or_default();
    let bridge = why("qemu: -netdev bridge: bridge helper failed", Network::Bridge("br7".into()));
    assert!(bridge.contains("'allow br7'"), "{bridge}");
    let port = why("qemu: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:80'", Network::User);
    assert!(port.contains("is taken"), "{port}");
    let used = why("qemu: Failed to get \"write\" lock", Network::None);
    assert!(used.contains("another process"), "{used}");
    let memory = why("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", Network::None);
    assert!(memory.contains("give the run less"), "{memory}");
    assert_eq!(explain("something else", &Network::Isolated), None);
}
