//! What people type, and others' scripts.

use jiff::tz::TimeZone;
use lifeboat_agent::capture::splitter::Listen;
use lifeboat_api::client::{Client, Trust};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::tls::Fingerprint;
use lifeboat_api::types::Network;
use lifeboat_base::point::parse_age;
use lifeboat_base::{AgentId, PointId, PointSpec, ServerId, WallTime};
use lifeboat_site::launch::Check;

const NOW: WallTime = WallTime(1_767_225_600_000_000_000);

/// Names of points: ids, ages, times.
pub fn points(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    match PointSpec::parse(&text, NOW, &zone) {
        Ok(PointSpec::Id(id)) => {
            assert_eq!(PointSpec::parse(&id.to_string(), NOW, &zone), Ok(PointSpec::Id(id)));
        }
        Ok(PointSpec::Latest | PointSpec::At(_)) => {}
        Err(e) => assert!(e.to_string().len() < 1024, "an error as long as its cause"),
    }
    let _ = parse_age(&text);
    if let Ok(id) = text.parse::<PointId>() {
        assert_eq!(id.to_string().parse::<PointId>().ok(), Some(id));
    }
}

/// What a launched machine is asked.
pub fn checks(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Check>() {
        Ok(check) => {
            assert_eq!(check.to_string().parse::<Check>().map(|c| c.to_string()), Ok(text.into_owned()))
        }
        Err(e) => assert!(e.to_string().len() < 8 << 10, "an error as long as its cause"),
    }
}

/// Addresses, ids, names of networks and states; the first byte says which.
pub fn addresses(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(body).into_owned();
    match which % 7 {
        0 => {
            if let Ok(listen) = Listen::parse(&text) {
                let _ = listen.uri("disk0");
            }
        }
        1 => back::<Fingerprint>(&text),
        2 => {
            if let Ok(network) = Network::try_from(text) {
                assert_eq!(Network::try_from(String::from(network.clone())), Ok(network));
            }
        }
        3 => back::<ServerId>(&text),
        4 => back::<AgentId>(&text),
        5 => drop(text.parse::<ServerState>()),
        _ => {
            let trust = Trust::Fingerprint("00".repeat(32).parse().unwrap());
            if let Ok(client) = Client::connect(&text, &trust, None) {
                assert!(!client.host().is_empty());
            }
        }
    }
}

fn back<T: std::str::FromStr + std::fmt::Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        assert!(shown.parse::<T>().is_ok_and(|again| again == value), "{shown}");
    }
}
