//! Who may see which event.

use conduit::rooms::{Event, visibility};
use ruma::{OwnedRoomId, OwnedUserId, events::StateEventType};
use serde_json::json;

use super::{World, member, state, text, user, world};

fn sees(world: &World, who: &OwnedUserId, event: &Event) -> bool {
    visibility::may_see_event(&world.rooms.store.read(), who, &world.event(event)).unwrap()
}

async fn set(world: &World, room: &OwnedRoomId, visibility: &str) -> Event {
    let draft = state(StateEventType::RoomHistoryVisibility, "", json!({"history_visibility": visibility}));
    world.send(room, &user("alice"), draft).await.unwrap()
}

/// What bob sees of what was said before he was invited, while he was, while he was joined, and after he left; and what
/// carol sees, who never was there.
#[tokio::test]
async fn history_visibility_matrix() {
    let world = world();
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    for (setting, while_in, after) in [
        ("world_readable", [true, true, true, true], [true, true, true, true]),
        ("shared", [true, true, true, true], [true, true, true, false]),
        ("invited", [false, true, true, true], [false, true, true, false]),
        ("joined", [false, false, true, true], [false, false, true, false]),
        ("org.example.unknown", [true, true, true, true], [true, true, true, false]),
    ] {
        let room = world.room(12);
        set(&world, &room, setting).await;
        let before = world.send(&room, &alice, text("before")).await.unwrap();
        let invite = world.send(&room, &alice, member("invite", &bob)).await.unwrap();
        let invited = world.send(&room, &alice, text("invited")).await.unwrap();
        let public = setting == "world_readable";
        assert!(sees(&world, &bob, &invite), "{setting}: one's own membership");
        assert_eq!(sees(&world, &bob, &before), public, "{setting}");
        assert_eq!(sees(&world, &bob, &invited), public || setting == "invited", "{setting}");
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        let joined = world.send(&room, &alice, text("joined")).await.unwrap();
        let last = world.send(&room, &alice, text("last")).await.unwrap();
        let all = [&before, &invited, &joined, &last];
        assert_eq!(all.map(|event| sees(&world, &bob, event)), while_in, "{setting}, joined");
        let leave = world.send(&room, &bob, member("leave", &bob)).await.unwrap();
        let later = world.send(&room, &alice, text("later")).await.unwrap();
        let all = [&before, &invited, &joined, &later];
        assert_eq!(all.map(|event| sees(&world, &bob, event)), after, "{setting}, left");
        assert!(sees(&world, &bob, &leave));
        assert_eq!(all.map(|event| sees(&world, &carol, event)), [public; 4], "{setting}, never there");
        assert!(all.into_iter().all(|event| sees(&world, &alice, event)));
    }
}

/// Whoever may see either side of a change of visibility may see the change.
#[tokio::test]
async fn changes_of_visibility() {
    let world = world();
    let carol = user("carol");
    let room = world.room(12);
    let opened = set(&world, &room, "world_readable").await;
    let closed = set(&world, &room, "joined").await;
    let still_closed = set(&world, &room, "invited").await;
    assert!(sees(&world, &carol, &opened));
    assert!(sees(&world, &carol, &closed));
    assert!(!sees(&world, &carol, &still_closed));
}
