//! Encrypted conversations between clients on both servers: devices, keys and to-device messages cross.

use matrix_sdk::{RoomMemberships, ruma::OwnedRoomId};

use crate::{
    device::{Device, How},
    side::Side,
    talk::until,
};

both_ways!(two_users, a_device_comes_and_another_goes, identities_are_seen);

/// An encrypted room of two, both in it.
async fn conversation(host: &Device, guest: &Device) -> OwnedRoomId {
    let room = host.create_dm(guest.me()).await.unwrap().room_id().to_owned();
    let joined = guest.accept(&room).await;
    assert!(joined.latest_encryption_state().await.unwrap().is_encrypted());
    until("both are in the room", async || {
        let members = host.joined(&room).await.members_no_sync(RoomMemberships::JOIN).await.unwrap();
        (members.len() == 2).then_some(())
    })
    .await;
    room
}

async fn two_users(host: &Side, guest: &Side) {
    let (alice, bob) = (host.device("alice").await, guest.device("bob").await);
    let room = conversation(&alice, &bob).await;
    for (number, (from, to)) in [(&alice, &bob), (&bob, &alice), (&alice, &bob)].into_iter().enumerate() {
        from.say(&room, &format!("message {number}")).await;
        to.reads(&room, &format!("message {number}")).await;
    }
    assert!(bob.timeline(&room).await.iter().filter(|event| event.encryption_info().is_some()).count() >= 3);
}

async fn a_device_comes_and_another_goes(host: &Side, guest: &Side) {
    let (alice, bob) = (host.device("alice").await, guest.device("bob").await);
    let room = conversation(&alice, &bob).await;
    alice.say(&room, "to one device").await;
    bob.reads(&room, "to one device").await;

    let base = bob.homeserver().to_string();
    let laptop = Device::login_at(base.trim_end_matches('/'), bob.me().localpart(), How::Classic).await;
    laptop.joined(&room).await;
    let id = laptop.device_id().unwrap().to_owned();
    until("alice knows bob's laptop", async || alice.encryption().get_device(bob.me(), &id).await.unwrap().map(|_| ()))
        .await;
    alice.say(&room, "to two devices").await;
    laptop.reads(&room, "to two devices").await;
    laptop.say(&room, "from the laptop").await;
    alice.reads(&room, "from the laptop").await;

    laptop.logout().await.unwrap();
    until("alice no longer knows bob's laptop", async || {
        alice.encryption().get_device(bob.me(), &id).await.unwrap().is_none().then_some(())
    })
    .await;
    alice.say(&room, "to one device again").await;
    bob.reads(&room, "to one device again").await;
}

async fn identities_are_seen(host: &Side, guest: &Side) {
    let (alice, bob) = (host.device("alice").await, guest.device("bob").await);
    let room = conversation(&alice, &bob).await;
    alice.say(&room, "who am I?").await;
    bob.reads(&room, "who am I?").await;
    for (device, other) in [(&alice, &bob), (&bob, &alice)] {
        let identity = until("the other's cross-signing keys arrive", async || {
            device.encryption().get_user_identity(other.me()).await.unwrap()
        })
        .await;
        let own = other.encryption().get_user_identity(other.me()).await.unwrap().unwrap();
        assert_eq!(identity.master_key().get_first_key(), own.master_key().get_first_key());
    }
}
