//! Memberships: what follows from what, and the indexes over them.

use conduit::{
    rooms::{self, members},
    store::trees,
};
use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::json;

use super::{World, member, state, status, text, user, world};

/// The membership that a row and the record of the room have, checked against each other.
fn check(world: &World, room: &ruma::OwnedRoomId, of: &UserId) -> Option<MembershipState> {
    let read = world.rooms.store.read();
    let (no, record) = rooms::require(&read, room).unwrap();
    let row = members::get(&read, no, of).unwrap();
    let own = members::user_room(&read, of, no).unwrap();
    assert_eq!(row.as_ref().map(|row| &row.membership), own.as_ref().map(|own| &own.membership));
    assert_eq!(row.as_ref().map(|row| row.event), own.as_ref().map(|own| own.event));
    let joined = members::joined(&read, no).count() as u64;
    let local = members::local_joined(&read, no).unwrap();
    assert_eq!((record.joined, record.local_joined), (joined, local.len() as u64));
    let is_joined = row.as_ref().is_some_and(|row| row.membership == MembershipState::Join);
    assert_eq!(local.iter().any(|user| user == of), is_joined);
    assert_eq!(members::joined_rooms(&read, of).unwrap().contains(&no), is_joined);
    let invited = members::all(&read, no).filter(|row| row.as_ref().unwrap().1.membership == MembershipState::Invite);
    assert_eq!(record.invited, invited.count() as u64);
    row.map(|row| row.membership)
}

/// Every change of membership that a user or a moderator may make, and those they may not.
#[tokio::test]
async fn membership_matrix() {
    let world = world();
    for number in [1, 6, 7, 10, 12] {
        let room = world.room(number);
        let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
        let rules = |rule: &str| state(StateEventType::RoomJoinRules, "", json!({"join_rule": rule}));
        world.send(&room, &alice, rules("invite")).await.unwrap();
        assert_eq!(status(&world.send(&room, &bob, member("join", &bob)).await), 403);
        assert_eq!(status(&world.send(&room, &bob, text("hi")).await), 403);
        assert_eq!(status(&world.send(&room, &bob, member("invite", &carol)).await), 403);
        assert_eq!(check(&world, &room, &bob), None);

        world.send(&room, &alice, member("invite", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Invite));
        assert_eq!(status(&world.send(&room, &bob, text("hi")).await), 403);
        world.send(&room, &bob, member("leave", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Leave));
        assert_eq!(status(&world.send(&room, &bob, member("join", &bob)).await), 403);

        world.send(&room, &alice, member("invite", &bob)).await.unwrap();
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Join));
        world.send(&room, &bob, text("hi")).await.unwrap();
        assert_eq!(status(&world.send(&room, &bob, member("leave", &alice)).await), 403, "no power to kick");
        assert_eq!(status(&world.send(&room, &bob, member("ban", &carol)).await), 403, "no power to ban");

        world.send(&room, &alice, member("leave", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Leave));
        world.send(&room, &alice, member("ban", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Ban));
        world.send(&room, &alice, rules("public")).await.unwrap();
        assert_eq!(status(&world.send(&room, &bob, member("join", &bob)).await), 403, "banned");
        assert_eq!(status(&world.send(&room, &alice, member("invite", &bob)).await), 403, "banned");
        world.send(&room, &alice, member("leave", &bob)).await.unwrap();
        world.send(&room, &bob, member("join", &bob)).await.unwrap();
        assert_eq!(check(&world, &room, &bob), Some(MembershipState::Join));

        world.send(&room, &alice, rules("knock")).await.unwrap();
        let knocked = world.send(&room, &carol, member("knock", &carol)).await;
        assert_eq!(status(&knocked), if number >= 7 { 200 } else { 403 });
        if number >= 7 {
            assert_eq!(check(&world, &room, &carol), Some(MembershipState::Knock));
            world.send(&room, &alice, member("invite", &carol)).await.unwrap();
            world.send(&room, &carol, member("join", &carol)).await.unwrap();
            assert_eq!(check(&world, &room, &carol), Some(MembershipState::Join));
        }
    }
}

/// An invited user knows what stripped state tells; the row forgets it on joining.
#[tokio::test]
async fn invites_carry_stripped_state() {
    let world = world();
    let room = world.room(12);
    let (alice, bob) = (user("alice"), user("bob"));
    world.send(&room, &alice, state(StateEventType::RoomName, "", json!({"name": "Cats"}))).await.unwrap();
    world.send(&room, &alice, state(StateEventType::RoomPinnedEvents, "", json!({"pinned": []}))).await.unwrap();
    world.send(&room, &alice, member("invite", &bob)).await.unwrap();
    let no = world.no(&room);
    let row = || members::user_room(&world.rooms.store.read(), &bob, no).unwrap().unwrap();
    let kinds: Vec<_> = row()
        .stripped
        .unwrap()
        .iter()
        .map(|event| {
            let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
            let is_create = event["type"] == "m.room.create";
            assert_eq!(event["origin_server_ts"].is_u64(), is_create, "of the create event alone: {event}");
            assert_eq!(event.as_object().unwrap().len(), 4 + usize::from(is_create));
            (event["type"].as_str().unwrap().to_owned(), event["state_key"].as_str().unwrap().to_owned())
        })
        .collect();
    let pair = |kind: &str, key: &str| (kind.to_owned(), key.to_owned());
    assert_eq!(
        kinds,
        [
            pair("m.room.create", ""),
            pair("m.room.join_rules", ""),
            pair("m.room.name", ""),
            pair("m.room.member", alice.as_str()),
            pair("m.room.member", bob.as_str()),
        ]
    );
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    assert!(row().stripped.is_none());
    let since = row().position;
    let renamed = json!({"membership": "join", "displayname": "Bob"});
    world.send(&room, &bob, state(StateEventType::RoomMember, bob.as_str(), renamed)).await.unwrap();
    assert_eq!(row().position, since, "a new name is no new membership");
}

/// Leaving and forgetting a room, and coming back.
#[tokio::test]
async fn coming_back_is_not_forgotten() {
    let world = world();
    let room = world.room(12);
    let bob = user("bob");
    let no = world.no(&room);
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    let left = world.send(&room, &bob, member("leave", &bob)).await.unwrap();
    let row = || members::user_room(&world.rooms.store.read(), &bob, no).unwrap().unwrap();
    assert_eq!(row().left, Some(left.order));
    let mut forgotten = row();
    forgotten.forgotten = true;
    world
        .rooms
        .store
        .write(|tx| {
            trees::USER_ROOMS.put(tx, (&*bob, no), &forgotten);
            Ok(())
        })
        .unwrap();
    world.send(&room, &user("alice"), member("invite", &bob)).await.unwrap();
    assert!(!row().forgotten);
    assert_eq!(row().left, Some(left.order));
    world.send(&room, &bob, member("join", &bob)).await.unwrap();
    assert_eq!(row().left, None);
}

/// Whom to name a room by.
#[tokio::test]
async fn heroes_are_the_first_others() {
    let world = world();
    let room = world.room(12);
    let alice = user("alice");
    let no = world.no(&room);
    for number in 0..7 {
        let other = user(&format!("u{}", 9 - number));
        world.send(&room, &other, member("join", &other)).await.unwrap();
    }
    let heroes = || members::heroes(&world.rooms.store.read(), no, &alice).unwrap();
    assert_eq!(heroes(), ["u9", "u8", "u7", "u6", "u5"].map(user));
    for number in 3..10 {
        let other = user(&format!("u{number}"));
        world.send(&room, &other, member("leave", &other)).await.unwrap();
    }
    assert_eq!(heroes(), ["u3", "u4", "u5", "u6", "u7"].map(user), "of those who left");
}
