//! What is read from files a person or an earlier process wrote, and the API's bodies.

use lifeboat::serve::config::SiteConfig;
use lifeboat_agent::identity::AgentConfig;
use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::{
    CaptureSpec, CreateTokenRequest, DrillRequest, FailoverRequest, GroupRequest, JoinRequest,
    LaunchOverrides, LaunchSettings, MountRequest, ProtectRequest, ReplicationSpec, ServerChange, WatchSpec,
    WindowSpec,
};
use lifeboat_base::ServerId;
use lifeboat_replicate::message::Assignments;
use lifeboat_site::launch::{RunRecord, RunSpec};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

fn place() -> &'static PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| DIR.get_or_init(|| tempfile::tempdir().unwrap()).path().to_path_buf())
}

/// `site.toml`: an error names the file; what is accepted reads back as itself once it is written.
pub fn site_toml(data: &[u8]) {
    let file = place().join("site.toml");
    fs::write(&file, data).unwrap();
    match SiteConfig::load(place()) {
        Ok(config) => {
            let _ = (config.api_url(), config.advertised_host());
            fs::write(&file, config.to_text()).unwrap();
            assert_eq!(SiteConfig::load(place()).map_err(|e| e.message).as_ref(), Ok(&config));
        }
        Err(e) => assert!(e.message.contains("site.toml"), "{}", e.message),
    }
}

/// `agent.toml`.
pub fn agent_toml(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(config) = toml::from_str::<AgentConfig>(text) {
        let again = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<AgentConfig>(&again).unwrap(), config);
    }
}

/// `assignments.bin`, with the JSON inside.
pub fn assignments(data: &[u8]) {
    let Ok(assignments) = Assignments::decode(data) else { return };
    for a in &assignments.servers {
        let _ = ServerId::from_slice(&a.server);
        text::<CaptureSpec>(a.capture.as_bytes());
        text::<ReplicationSpec>(a.replication.as_bytes());
    }
    assert_eq!(Assignments::decode(&assignments.encode_to_vec()[..]), Ok(assignments));
}

/// What the site keeps beside its journals and runs; the first byte says which.
pub fn json(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    match which % 3 {
        0 => text::<ServerSpec>(body),
        1 => text::<RunRecord>(body),
        _ => {
            if let Ok(spec) = serde_json::from_slice::<RunSpec>(body) {
                let _ = serde_json::to_string(&spec).unwrap();
            }
        }
    }
}

/// Bodies of the API's requests; the first byte says which.
pub fn api(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    match which % 13 {
        0 => text::<ProtectRequest>(body),
        1 => text::<MountRequest>(body),
        2 => text::<DrillRequest>(body),
        3 => text::<FailoverRequest>(body),
        4 => text::<CreateTokenRequest>(body),
        5 => text::<JoinRequest>(body),
        6 => text::<LaunchSettings>(body),
        7 => text::<LaunchOverrides>(body),
        8 => text::<WindowSpec>(body),
        9 => text::<ServerChange>(body),
        10 => text::<GroupRequest>(body),
        11 => text::<WatchSpec>(body),
        _ => text::<ReplicationSpec>(body),
    }
}

/// What is taken reads back as itself. Compared as values: not every request can be compared.
fn text<T: Serialize + DeserializeOwned>(body: &[u8]) {
    if let Ok(taken) = serde_json::from_slice::<T>(body) {
        let value = serde_json::to_value(&taken).unwrap();
        let again: T = serde_json::from_str(&value.to_string()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), value);
    }
}
