//! A site without sockets, and agents that speak the real protocol to it over a pipe in memory.
#![allow(clippy::unwrap_used)]

use crate::Site;
use crate::port::SiteHandle;
use crate::server::No;
use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_api::port::{ControlPort, PortError, Refusal, ServerSpec, SitePort};
use lifeboat_api::types::{CaptureSpec, DiskInfo, ReplicationSpec, WindowSpec};
use lifeboat_base::limits::MAX_FRAME;
use lifeboat_base::{AgentId, DiskId, Epoch, ManualClock, SeededEntropy, Seq, ServerId, WallTime};
use lifeboat_block::{BarrierKind, Body, Codec};
use lifeboat_replicate::message::{Disk, Refuse, RefuseCode, StreamSession, Welcome};
use lifeboat_replicate::shell::read_frame;
use lifeboat_replicate::wire::{Ack, Answer, FrameType, Offer, Ping, RecordsFrame, decode_message};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

pub(crate) const SIZE: u64 = 256 << 10;
pub(crate) const DISK: DiskId = DiskId(0);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Lets everybody in and keeps what it is told for the audit log.
#[derive(Default)]
pub(crate) struct Control(pub Mutex<Vec<String>>);

#[async_trait]
impl ControlPort for Control {
    fn admit(&self, certificate: &[u8], _: &str) -> Result<AgentId, Refusal> {
        AgentId::from_slice(certificate).map_err(|_| Refusal::Unknown)
    }
    fn handshake_refused(&self, _: &str, _: &str) {}
    async fn renew(&self, _: AgentId, _: &str) -> Result<String, PortError> {
        Ok(String::new())
    }
    fn note(&self, action: &str, target: &str, outcome: &str, detail: &str) {
        self.0.lock().push(format!("{action} {target} {outcome}: {detail}"));
    }
}

/// Free and all bytes of the disk that the tests' sites believe in: theirs is as full as the machine is.
pub(crate) const ROOMY: (u64, u64) = (50 << 30, 100 << 30);

pub(crate) struct World {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    pub control: Arc<Control>,
    pub site: SiteHandle,
}

pub(crate) fn open_site(dir: &Path, clock: &Arc<ManualClock>, entropy: &Arc<SeededEntropy>) -> SiteHandle {
    open_site_with(dir, clock, entropy, None)
}

pub(crate) fn open_site_with(
    dir: &Path,
    clock: &Arc<ManualClock>,
    entropy: &Arc<SeededEntropy>,
    vault: Option<crate::vault::VaultSettings>,
) -> SiteHandle {
    let mut site =
        Site::in_dir((dir.to_path_buf(), vault), &[3; 32], None, clock.clone(), entropy.clone()).unwrap();
    site.space = |_| ROOMY;
    SiteHandle(Arc::new(site))
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::new(5)));
        let site = open_site(dir.path(), &clock, &entropy);
        let control = Arc::new(Control::default());
        site.set_control(control.clone());
        Self { dir, clock, entropy, control, site }
    }

    /// Ends the site in order and starts it again over the same directory.
    pub(crate) async fn restart(&mut self, spec: &ServerSpec) {
        self.site.shutdown().await;
        self.site = open_site(self.dir.path(), &self.clock, &self.entropy);
        self.site.set_control(self.control.clone());
        // Sessions that were cut let go of the journals when they notice.
        let open = async {
            while let Err(e) = self.site.ensure_server(spec).await {
                assert!(e.message.contains("open in another process"), "{e}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, open).await.unwrap();
    }

    pub(crate) fn spec(&self, name: &str, agent: AgentId, epoch: u32) -> ServerSpec {
        ServerSpec {
            id: ServerId::random(&*self.entropy),
            name: name.into(),
            agent,
            epoch: Epoch(epoch),
            capture: CaptureSpec::Splitter { paths: vec!["/disk".into()], listen: None },
            disks: vec![DiskInfo { index: 0, name: "disk".into(), size: SIZE }],
            window: WindowSpec { seconds: 3600, bytes: 1 << 30 },
            replication: ReplicationSpec::default(),
            retention: lifeboat_api::types::RetentionSpec::default(),
            active: true,
        }
    }

    pub(crate) fn agent(&self) -> AgentId {
        AgentId::random(&*self.entropy)
    }

    pub(crate) fn noted(&self, what: &str) -> bool {
        self.control.0.lock().iter().any(|n| n.contains(what))
    }
}

/// A stream session from the agent's side.
pub(crate) struct Wire {
    pub reader: ReadHalf<DuplexStream>,
    pub writer: WriteHalf<DuplexStream>,
    pub welcome: Welcome,
    pub epoch: Epoch,
    pub next: Seq,
    pub acked: Ack,
}

impl Wire {
    /// Says hello as process `instance` of `agent`.
    pub(crate) async fn hello(
        site: &SiteHandle,
        agent: AgentId,
        server: ServerId,
        process: (u64, u32),
        lineage: &[u64],
    ) -> Result<Self, No> {
        Self::hello_by(site, agent, server, process, (lineage, 0)).await
    }

    /// As [`Wire::hello`], with tracking whose last sign of life was at a time of the source's clock.
    pub(crate) async fn hello_by(
        site: &SiteHandle,
        agent: AgentId,
        server: ServerId,
        (instance, epoch): (u64, u32),
        (lineage, alive): (&[u64], u64),
    ) -> Result<Self, No> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let session = StreamSession {
            server: server.as_bytes().to_vec(),
            epoch,
            disks: vec![Disk { index: 0, name: "disk".into(), size: SIZE }],
            lineage: lineage.to_vec(),
            alive,
        };
        let site = Arc::clone(&site.0);
        tokio::spawn(async move { crate::listen::tests::stream(&site, far, agent, instance, session).await });
        let (mut reader, writer) = tokio::io::split(near);
        let (kind, body) = read_frame(&mut reader, MAX_FRAME, PATIENCE).await.unwrap();
        match kind {
            FrameType::Welcome => {
                let welcome: Welcome = decode_message(&body).unwrap();
                let next = Seq(welcome.durable + 1);
                Ok(Self { reader, writer, welcome, epoch: Epoch(epoch), next, acked: Ack::default() })
            }
            _ => Err(refusal(&body)),
        }
    }

    pub(crate) async fn send(&mut self, time: u64, bodies: &[Body]) -> Seq {
        let mut frame = RecordsFrame::new(self.epoch, self.next, 4096);
        for body in bodies {
            frame.push(WallTime(time), body);
        }
        let last = frame.last();
        self.next = last.next();
        self.writer.write_all(&frame.finish()).await.unwrap();
        last
    }

    /// A heartbeat of a source that has nothing left to send.
    pub(crate) async fn ping(&mut self, time: WallTime) {
        let ping = Ping { seq: Seq(self.next.0 - 1), time, lag_bytes: 0, live: true };
        self.writer.write_all(&ping.frame()).await.unwrap();
        // The answer to an offer says that it was taken.
        self.offer(0, false, &[[0; 32]]).await;
    }

    pub(crate) async fn offer(&mut self, offset: u64, exact: bool, hashes: &[[u8; 32]]) -> Vec<bool> {
        let offer = Offer { id: 9, disk: DISK, offset, exact, hashes: hashes.to_vec() };
        self.writer.write_all(&offer.frame()).await.unwrap();
        loop {
            let (kind, body) = read_frame(&mut self.reader, MAX_FRAME, PATIENCE).await.unwrap();
            if kind == FrameType::Answer {
                return Answer::decode(body).unwrap().needed;
            }
            self.take(kind, body);
        }
    }

    fn take(&mut self, kind: FrameType, body: Bytes) {
        match kind {
            FrameType::Ack => self.acked = Ack::decode(body).unwrap(),
            FrameType::Refuse => panic!("{}", refusal(&body).message),
            _ => {}
        }
    }

    /// Waits until `seq` is acknowledged.
    pub(crate) async fn acked(&mut self, seq: Seq) {
        while self.acked.durable < seq {
            let (kind, body) = read_frame(&mut self.reader, MAX_FRAME, PATIENCE).await.unwrap();
            self.take(kind, body);
        }
    }

    /// Waits for the site's last word.
    pub(crate) async fn ended(&mut self) -> No {
        loop {
            let (kind, body) = read_frame(&mut self.reader, MAX_FRAME, PATIENCE).await.unwrap();
            if kind == FrameType::Refuse {
                return refusal(&body);
            }
        }
    }
}

fn refusal(body: &[u8]) -> No {
    let refuse: Refuse = decode_message(body).unwrap();
    No::new(RefuseCode::try_from(refuse.code).unwrap(), refuse.message)
}

pub(crate) fn announce() -> Body {
    Body::Disk { disk: DISK, size: SIZE }
}

pub(crate) fn barrier() -> Body {
    Body::Barrier { kind: BarrierKind::Crash }
}

pub(crate) fn zero(offset: u64, len: u64) -> Body {
    Body::Zero { disk: DISK, offset, len }
}

pub(crate) fn data(offset: u64, byte: u8, len: usize) -> Body {
    let payload = Bytes::from(vec![byte; len]);
    let crc = crc32c::crc32c(&payload);
    Body::Data { disk: DISK, offset, len: len as u32, codec: Codec::Raw, crc, payload }
}
