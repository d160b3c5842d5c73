use super::*;
use crate::render::fixtures::*;
use lifeboat_api::types::GroupMember;

fn group() -> Group {
    let member =
        |server: &str, point: &str| GroupMember { server: server.into(), point: point.parse().unwrap() };
    Group {
        name: "shop".into(),
        servers: vec!["web-1".into(), "db-1".into()],
        every_seconds: 60,
        hold_ms: 500,
        latest: Some(GroupPoint {
            id: "g42".into(),
            time: before(3),
            members: vec![member("web-1", "p1.4711"), member("db-1", "p2.15")],
            held_us: 12_345,
        }),
        trouble: None,
    }
}

#[test]
fn groups_and_their_points_are_tables() {
    let broken = Group {
        name: "mail".into(),
        latest: None,
        every_seconds: 0,
        trouble: Some("'db-1' is stopped".into()),
        ..group()
    };
    assert_eq!(
        table(&[group(), broken], NOW, Style::PLAIN),
        "GROUP  SERVERS      EVERY       LAST POINT     TROUBLE\n\
         shop   web-1, db-1  60 s        g42 (3 s ago)\n\
         mail   web-1, db-1  when asked  none yet       'db-1' is stopped\n"
    );
    assert_eq!(
        points(&[group().latest.unwrap()], NOW),
        "POINT  TIME (UTC)           AGE         HELD  SERVERS\n\
         g42    2025-12-31 23:59:57  3 s ago  12.3 ms  web-1 p1.4711, db-1 p2.15\n"
    );
    assert!(table(&[], NOW, Style::PLAIN).contains("lifeboat group create"));
    assert!(points(&[], NOW).contains("lifeboat group show"));
}

#[test]
fn one_group_names_the_part_of_each_server() {
    assert_eq!(
        full(&group(), NOW, Style::PLAIN),
        "group          shop\n\
         servers        web-1, db-1\n\
         a point every  60 s\n\
         holds writes   at most 500 ms\n\
         newest point   g42 at 2025-12-31 23:59:57 UTC (3 s ago)\n\
         \x20 web-1        p1.4711\n\
         \x20 db-1         p2.15\n\
         \x20 writes held  12.3 ms\n"
    );
}
