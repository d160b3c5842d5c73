//! A whole control side on the small world.

use super::{FakeSite, FakeVault, Trouble, World};
use crate::app::{App, ControlConfig};
use crate::ca::{AGENT_LIFE, Ca};
use crate::gate::Gate;
use crate::kit::{KitPlace, KitSource};
use crate::policy::{Actor, Role};
use crate::store::{AgentRow, Note, Store, TokenRow};
use lifeboat_api::types::*;
use lifeboat_base::{AgentId, Clock, Entropy, ManualClock, SeededEntropy, ServerId, SystemClock, WallTime};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A whole control side on a fake data side.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    pub site: Arc<FakeSite>,
    pub store: Store,
    pub ca: Arc<Ca>,
    pub gate: Arc<Gate>,
    pub app: Arc<App>,
}

pub fn admin() -> Actor {
    Actor { name: "tess (t1)".into(), role: Role::Admin, token: Some("t1".into()) }
}

impl Stage {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = Arc::new(ManualClock::default());
        // TLS looks at the machine's own clock, so certificates must be made by it.
        // Whole milliseconds, because that is how exact times are in JSON.
        clock.set_wall(WallTime(SystemClock.wall().0 / 1_000_000 * 1_000_000));
        let entropy = Arc::new(SeededEntropy::new(7));
        let (ca, _, _) = Ca::create("test", clock.wall(), &*entropy).expect("CA");
        let ca = Arc::new(ca);
        let store = Store::open(&dir.path().join("s.sqlite"), true, clock.clone()).await.expect("store");
        let world = World { space: (500, 1000), ..World::default() };
        let runs = dir.path().join("run");
        std::fs::create_dir(&runs).expect("run directory");
        let site = Arc::new(FakeSite {
            world: Mutex::new(world),
            trouble: Mutex::new((Trouble::None, 0)),
            clock: clock.clone(),
            dir: runs,
            vault: FakeVault::default(),
        });
        let (gate, app) = Self::compose(&store, &ca, &site, &clock, &entropy).await;
        Self { dir, clock, entropy, site, store, ca, gate, app }
    }

    async fn compose(
        store: &Store,
        ca: &Arc<Ca>,
        site: &Arc<FakeSite>,
        clock: &Arc<ManualClock>,
        entropy: &Arc<SeededEntropy>,
    ) -> (Arc<Gate>, Arc<App>) {
        let gate = Gate::open(store.clone(), ca.clone(), clock.clone(), entropy.clone(), AGENT_LIFE);
        let gate = gate.await.expect("gate");
        let kit = KitSource {
            site: "test".into(),
            vault_key: "ab".repeat(32).into(),
            ca_certificate: ca.pem().into(),
            ca_key: "the CA's key".to_string().into(),
            places: vec![KitPlace { location: "/srv/vault".into(), ..KitPlace::default() }],
            quorum: 1,
        };
        let config = ControlConfig {
            reconcile_every: Duration::from_millis(5),
            kit: Some(kit),
            ..ControlConfig::default()
        };
        let app = App::new(store.clone(), gate.clone(), site.clone(), clock.clone(), entropy.clone(), config);
        app.start();
        (gate, app)
    }

    /// The process dies and starts again on the same store and the same world.
    pub async fn restart(&mut self) {
        self.app.stop().await;
        self.site.world.lock().held.clear();
        (self.gate, self.app) =
            Self::compose(&self.store, &self.ca, &self.site, &self.clock, &self.entropy).await;
    }

    /// An agent that has joined and is connected.
    pub async fn agent(&self, name: &str) -> AgentId {
        let id = AgentId::random(&*self.entropy);
        let row = AgentRow {
            id,
            name: name.into(),
            joined: self.clock.wall(),
            serial: "01".into(),
            certificate_expires: self.clock.wall().saturating_add(AGENT_LIFE),
            revoked: false,
        };
        let token = TokenRow {
            id: format!("join-{name}"),
            kind: TokenKind::Agent,
            name: String::new(),
            hash: [0; 32],
            created: self.clock.wall(),
            expires: None,
            used: false,
            revoked: false,
        };
        let note = Note::done("test", "agent.join", name, "");
        self.store.insert_token(&token, &note).await.expect("token");
        self.store.redeem(&token.id, &row, &note).await.expect("agent");
        self.gate.joined(&row);
        self.site.connect(id);
        id
    }

    /// A machine called `name` that an agent can see, and the request that protects it.
    pub fn protect_request(&self, name: &str, agent: &str) -> ProtectRequest {
        let qmp = format!("/run/{name}.qmp");
        self.site.machine(&qmp, &["vda", "vdb"]);
        ProtectRequest {
            name: name.into(),
            agent: agent.into(),
            capture: CaptureSpec::Mirror { qmp, disks: Vec::new() },
            window: WindowSpec::default(),
            launch: LaunchSettings::default(),
            replication: ReplicationSpec::default(),
            watch: WatchSpec::default(),
            retention: RetentionSpec::default(),
        }
    }

    /// `web-1`, replicating, with one point.
    pub async fn replicating(&self) -> ServerId {
        self.agent("a1").await;
        let server = self.app.protect(&admin(), self.protect_request("web-1", "a1")).await.expect("protect");
        self.site.point(server.id);
        self.until_state("web-1", lifeboat_api::lifecycle::ServerState::Replicating).await;
        server.id
    }

    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> T {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    pub async fn until_state(&self, name: &str, state: lifeboat_api::lifecycle::ServerState) {
        self.until(&format!("{name} is {state}"), || async {
            (self.app.server(name).await.expect("server").state == state).then_some(())
        })
        .await;
    }

    /// The operation once it is over.
    pub async fn ended(&self, id: lifeboat_base::OperationId) -> Operation {
        self.until("the operation is over", || async {
            let op = self.app.operation(id).await.expect("operation");
            (op.state != OperationState::Running).then_some(op)
        })
        .await
    }

    /// Audit entries, newest first, as `actor action target outcome`.
    pub async fn audit(&self) -> Vec<String> {
        let entries = self.store.audit(1000, None).await.expect("audit");
        entries.into_iter().map(|e| format!("{} {} {} {}", e.actor, e.action, e.target, e.outcome)).collect()
    }

    /// Nothing that must never happen did, and the log is whole.
    pub async fn sound(&self) {
        assert_eq!(self.site.world.lock().violations, Vec::<String>::new());
        let log = self.store.verify_audit().await.expect("audit");
        assert!(log.ok, "{log:?}");
    }

    pub async fn token(&self, kind: TokenKind) -> String {
        let request = CreateTokenRequest { kind, name: None, ttl_seconds: None };
        self.app.create_token(&admin(), &request).await.expect("token").token
    }
}

pub fn drill_request() -> DrillRequest {
    serde_json::from_value(serde_json::json!({"checks": ["tcp:80", "serial:login"], "keep_seconds": 600}))
        .expect("request")
}

pub fn failover_request() -> FailoverRequest {
    serde_json::from_value(serde_json::json!({"checks": ["tcp:80"]})).expect("request")
}

/// A certificate request as an agent makes it, asking for far too much.
pub fn csr() -> String {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec!["site.lifeboat".to_string()]).expect("params");
    params.distinguished_name.push(rcgen::DnType::CommonName, "site.lifeboat");
    params.serialize_request(&key).expect("request").pem().expect("pem")
}

pub fn entropy(seed: u64) -> impl Entropy {
    SeededEntropy::new(seed)
}
