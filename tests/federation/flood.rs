//! A room that everybody joins at once.

use std::{cell::Cell, time::Instant};

use http::Method;
use serde_json::{Value, json};

use crate::common::{
    encode,
    newcomer::Newcomer,
    synthetic::{Size, SyntheticRoom},
};

/// How much the program may grow by the flood, in KiB: what there is for its caches in a test (`memory_budget`, 64 MB),
/// and some for what is under way.
const GROWTH: u64 = 96 << 10;

/// What the server holds in memory does not grow with those who join, and who else says something is heard meanwhile.
/// `CONDUIT_FLOOD` has more of them join than in a usual run, 10,000 for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_joins_drowns_nobody() {
    let joins = std::env::var("CONDUIT_FLOOD").map_or(1_000, |number| number.parse().unwrap());
    let stage = Newcomer::new().await;
    let own = stage.bob.create_room(json!({})).await;
    let (mut room, mut quiet) = (
        stage.room(Size { members: 3, changes: 1 }),
        SyntheticRoom::new(&Newcomer::peer(&stage.net).await, &stage.crowd, Size { members: 1, changes: 0 }),
    );
    for room in [&mut room, &mut quiet] {
        room.admit();
        stage.join(room).await.unwrap();
        room.take_joins();
    }
    let mut pdus = Vec::new();
    for number in 0..joins {
        let user = format!("@flood{number}:{}", room.peer.name);
        pdus.push(room.set(&user, "m.room.member", &user, json!({ "membership": "join" })));
    }
    let (before, begun) = (stage.memory("VmRSS"), Instant::now());
    let flood = async {
        for (number, chunk) in pdus.chunks(50).enumerate() {
            stage.send(&room, &format!("flood {number}"), chunk).await;
        }
    };
    let served = Cell::new(0);
    let serve = async {
        let member = quiet.member(0);
        loop {
            stage.bob.send_text(&own, "to myself").await;
            let said = quiet.say(&member, "to the quiet room");
            stage.send(&quiet, &format!("quiet {}", served.get()), &[said]).await;
            served.set(served.get() + 1);
        }
    };
    tokio::select! {
        () = flood => {}
        () = serve => {}
    }
    let (took, grown) = (begun.elapsed(), stage.memory("VmHWM").saturating_sub(before));
    #[allow(clippy::print_stdout)] // the figures, for who asked for a large flood
    {
        println!("{joins} joined in {took:?}, {} others were served; {grown} KiB more than {before}", served.get());
    }
    assert!(served.get() > 0, "nobody else was served");
    assert!(grown < GROWTH, "it grew by {grown} KiB");
    assert_eq!(stage.members(&room).await, joins + 5);
    let said = room.say(&room.member(0), "still here");
    stage.send(&room, "after", &[said]).await;
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=1", encode(room.id.as_str()));
    assert!(stage.bob.ok(Method::GET, &path, Value::Null).await.to_string().contains("still here"));
}
