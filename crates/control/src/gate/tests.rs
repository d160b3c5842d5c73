#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::{Stage, admin, csr};
use lifeboat_api::types::{CreateTokenRequest, JoinRequest, TokenKind};

const FROM: &str = "192.0.2.1:5000";

fn leaf(chain: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap().1.contents
}

async fn join(stage: &Stage, name: &str) -> (AgentId, String) {
    let request = CreateTokenRequest { kind: TokenKind::Agent, name: None, ttl_seconds: None };
    let token = stage.app.create_token(&admin(), &request).await.unwrap().token;
    let joined = stage.app.join(&JoinRequest { token, name: name.into(), csr: csr() }).await.unwrap();
    (joined.agent, joined.certificate)
}

#[tokio::test]
async fn only_a_known_agent_with_a_valid_certificate_comes_in() {
    let mut stage = Stage::new().await;
    let (id, chain) = join(&stage, "a1").await;
    assert_eq!(stage.gate.admit(&leaf(&chain), FROM), Ok(id));
    assert_eq!(stage.gate.admit(b"garbage", FROM), Err(Refusal::Unknown));

    // Signed by the CA, for an agent nobody let join.
    let stranger = AgentId::random(&*stage.entropy);
    let issued = stage
        .ca
        .agent(&csr(), stranger, Duration::from_secs(60), stage.clock.wall(), &*stage.entropy)
        .unwrap();
    assert_eq!(stage.gate.admit(&leaf(&issued.chain), FROM), Err(Refusal::Unknown));

    stage.restart().await;
    assert_eq!(stage.gate.admit(&leaf(&chain), FROM), Ok(id), "the table is read back");
    let issued_at = stage.clock.wall();
    stage.clock.set_wall(issued_at.saturating_sub(Duration::from_secs(2 * 3600)));
    assert_eq!(stage.gate.admit(&leaf(&chain), FROM), Err(Refusal::NotValid), "not yet");
    stage.clock.set_wall(issued_at.saturating_add(stage.gate.agent_life() + Duration::from_secs(1)));
    assert_eq!(stage.gate.admit(&leaf(&chain), FROM), Err(Refusal::NotValid), "no more");
}

#[tokio::test]
async fn a_revoked_agent_stays_out_and_gets_no_new_certificate() {
    let mut stage = Stage::new().await;
    let (id, chain) = join(&stage, "a1").await;
    let fresh = stage.gate.renew(id, &csr()).await.unwrap();
    assert_eq!(stage.gate.admit(&leaf(&fresh), FROM), Ok(id));
    assert_eq!(stage.gate.renew(id, "nonsense").await.unwrap_err().code, ErrorCode::Invalid);

    stage.app.revoke_agent(&admin(), "a1").await.unwrap();
    for chain in [&chain, &fresh] {
        assert_eq!(stage.gate.admit(&leaf(chain), FROM), Err(Refusal::Revoked));
    }
    let e = stage.gate.renew(id, &csr()).await.unwrap_err();
    assert_eq!(e.to_string(), "the agent was revoked or never joined (join it again with a new join token)");
    stage.restart().await;
    assert_eq!(stage.gate.admit(&leaf(&chain), FROM), Err(Refusal::Revoked));
    stage.sound().await;
}

#[tokio::test]
async fn refusals_are_audited_and_a_flood_of_them_is_counted() {
    let stage = Stage::new().await;
    for port in 0..500 {
        let _ = stage.gate.admit(b"garbage", &format!("192.0.2.1:{port}"));
    }
    stage.gate.handshake_refused("192.0.2.1:1", "no certificate");
    stage.clock.advance(Duration::from_secs(61));
    let _ = stage.gate.admit(b"garbage", "192.0.2.2:1");
    stage
        .until("all is written", || async {
            stage.audit().await.iter().any(|e| e.contains("192.0.2.2:1")).then_some(())
        })
        .await;
    assert_eq!(
        stage.audit().await,
        [
            "unknown peer.connect 192.0.2.2:1 refused",
            "site peer.connect  refused",
            "unknown peer.connect 192.0.2.1:1 refused",
            "unknown peer.connect 192.0.2.1:0 refused",
        ]
    );
    let counted = &stage.store.audit(2, None).await.unwrap()[1].detail;
    assert_eq!(counted, "499 more refusals within a minute");
}
