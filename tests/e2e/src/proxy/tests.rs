use super::*;
use crate::wait::wait_for;

const SOON: Duration = Duration::from_secs(20);

/// An agent's and a site's end with the proxy between.
fn ends(proxy: &Proxy, site: &TcpListener) -> (TcpStream, TcpStream) {
    let agent = TcpStream::connect(proxy.address()).unwrap();
    let (site, _) = site.accept().unwrap();
    for s in [&agent, &site] {
        s.set_read_timeout(Some(SOON)).unwrap();
    }
    (agent, site)
}

fn between() -> (Proxy, TcpListener) {
    let site = TcpListener::bind("127.0.0.1:0").unwrap();
    (Proxy::start(site.local_addr().unwrap()), site)
}

fn record(len: usize) -> Vec<u8> {
    [&[23, 3, 3, (len >> 8) as u8, len as u8][..], &vec![9; len]].concat()
}

fn received(s: &mut TcpStream) -> (usize, io::Result<()>) {
    let mut all = Vec::new();
    let ended = s.read_to_end(&mut all).map(drop);
    (all.len(), ended)
}

#[test]
fn bytes_pass_both_ways_whole_sliced_and_throttled() {
    let (proxy, site) = between();
    for plan in [Plan::Pass, Plan::Slice(1), Plan::Throttle(200_000), Plan::Delay(Duration::from_millis(3))] {
        proxy.set(plan);
        let (mut agent, mut far) = ends(&proxy, &site);
        let said: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        agent.write_all(&said).unwrap();
        agent.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).unwrap();
        assert!(heard == said, "{plan:?}");
        far.write_all(b"answer").unwrap();
        drop(far);
        assert_eq!(received(&mut agent).0, 6, "{plan:?}");
    }
}

#[test]
fn a_strike_falls_after_that_record_or_byte_and_once() {
    let (proxy, site) = between();
    let said = [record(10), record(0), record(300), record(1)].concat();
    let ends_at = [15, 20, 325, 331];
    for (n, at) in ends_at.into_iter().enumerate() {
        for order in [At::Record(n as u64 + 1), At::Byte(at)] {
            let before = proxy.struck();
            proxy.strike(Way::ToSite, order, End::Close);
            let (mut agent, mut far) = ends(&proxy, &site);
            agent.write_all(&said).unwrap();
            let (heard, _) = received(&mut far);
            assert_eq!((heard, proxy.struck() - before), (at as usize, 1), "{order:?}");
            let (mut agent, mut far) = ends(&proxy, &site);
            agent.write_all(&said).unwrap();
            drop(agent);
            assert_eq!(received(&mut far).0, said.len(), "the next one passes");
        }
    }
}

#[test]
fn a_reset_is_one_and_a_stall_is_silence() {
    let (proxy, site) = between();
    proxy.strike(Way::ToSite, At::Byte(3), End::Reset);
    let (mut agent, mut far) = ends(&proxy, &site);
    agent.write_all(b"hello").unwrap();
    assert_eq!(received(&mut far).1.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(received(&mut agent).1.is_err());

    proxy.strike(Way::ToSite, At::Byte(3), End::Stall);
    let (mut agent, mut far) = ends(&proxy, &site);
    agent.write_all(b"hello").unwrap();
    let mut three = [0; 3];
    far.read_exact(&mut three).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(
        far.read(&mut three).unwrap_err().kind(),
        io::ErrorKind::WouldBlock,
        "neither bytes nor an end"
    );
    proxy.drop_all(End::Close);
    let (heard, ended) = received(&mut agent);
    assert!(heard == 0 && ended.is_ok(), "{ended:?}");
}

#[test]
fn what_is_held_passes_later_and_what_is_swallowed_does_not() {
    let (proxy, site) = between();
    let (mut agent, mut far) = ends(&proxy, &site);
    proxy.set(Plan::Hold);
    agent.write_all(b"held").unwrap();
    far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut four = [0; 4];
    assert_eq!(far.read(&mut four).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    far.set_read_timeout(Some(SOON)).unwrap();
    proxy.set(Plan::Pass);
    far.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"held");
    proxy.set(Plan::Swallow(Way::ToSite));
    agent.write_all(b"lost").unwrap();
    far.write_all(b"back").unwrap();
    agent.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"back", "the other way passes");
    wait_for("the bytes to be taken", SOON, || proxy.passed(Way::ToAgent) == 4);
    proxy.set(Plan::Pass);
    agent.write_all(b"more").unwrap();
    far.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"more");
}

#[test]
fn the_busiest_is_held_and_no_other() {
    let (proxy, site) = between();
    let (mut quiet, mut quiet_far) = ends(&proxy, &site);
    let (mut busy, mut busy_far) = ends(&proxy, &site);
    let mut got = [0; 5];
    for (near, far, times) in [(&mut quiet, &mut quiet_far, 1), (&mut busy, &mut busy_far, 3)] {
        for _ in 0..times {
            near.write_all(b"hello").unwrap();
            far.read_exact(&mut got).unwrap();
        }
    }
    proxy.hold_busiest();
    busy.write_all(b"hello").unwrap();
    quiet.write_all(b"hello").unwrap();
    quiet_far.read_exact(&mut got).unwrap();
    busy_far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(busy_far.read(&mut got).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    proxy.set(Plan::Pass);
    busy_far.set_read_timeout(Some(SOON)).unwrap();
    busy_far.read_exact(&mut got).unwrap();
}
