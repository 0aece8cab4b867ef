//! Encrypted conversations between users of two servers.

use crate::{
    common::net::TestNet,
    device::{Device, How, until},
    encryption::encrypted_dm,
    verification::verify_other,
};

however_it_syncs!(
    an_encrypted_conversation,
    users_verify_each_other,
    devices_come_and_go,
    what_was_lost_meanwhile_is_made_up_for,
);

async fn an_encrypted_conversation(how: How) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let phone = Device::register(&a, "alice", how).await;
    let tablet = Device::login(&a, "alice", how).await;
    let bob = Device::register(&b, "bob", how).await;
    let laptop = Device::login(&b, "bob", how).await;
    let dm = encrypted_dm(&phone, &bob).await;
    let devices = [&phone, &tablet, &bob, &laptop];
    for device in devices {
        device.joined(&dm).await;
    }
    for (number, device) in devices.iter().enumerate() {
        device.say(&dm, &format!("message {number}")).await;
        for reader in devices {
            reader.reads(&dm, &format!("message {number}")).await;
        }
    }
}

async fn users_verify_each_other(how: How) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let alice = Device::register(&a, "alice", how).await;
    let bob = Device::register(&b, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    until("alice knows their room", async || alice.get_dm_room(bob.me())).await;
    // While a client learns that devices belong to identities it may make new keys for the room: those must be there
    // before the request is.
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        until(&format!("{} knows whose device {} has", one.me(), other.me()), async || {
            let (user, device) = (other.user_id().unwrap(), other.device_id().unwrap());
            // Asks: with sliding sync, a client does not follow the devices of whom it has not written to.
            one.encryption().request_user_identity(user).await.unwrap()?;
            let device = one.encryption().get_device(user, device).await.unwrap()?;
            device.is_cross_signed_by_owner().then_some(())
        })
        .await;
    }
    alice.say(&dm, "who are you?").await;
    bob.reads(&dm, "who are you?").await;
    verify_other(&alice, &bob).await;
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        until(&format!("{} trusts {}", one.me(), other.me()), async || {
            let identity = one.encryption().get_user_identity(other.me()).await.unwrap()?;
            identity.is_verified().then_some(())
        })
        .await;
    }
}

async fn devices_come_and_go(how: How) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let alice = Device::register(&a, "alice", how).await;
    let bob = Device::register(&b, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    alice.say(&dm, "before").await;
    bob.reads(&dm, "before").await;

    // A new device of Bob's is told to Alice's server, and she writes to it too.
    let laptop = Device::login(&b, "bob", how).await;
    laptop.joined(&dm).await;
    knows(&alice, &laptop, true).await;
    alice.say(&dm, "to both").await;
    for reader in [&bob, &laptop] {
        reader.reads(&dm, "to both").await;
    }

    // One that is gone gets no keys any more.
    laptop.logout().await.unwrap();
    knows(&alice, &laptop, false).await;
    alice.say(&dm, "without the laptop").await;
    bob.reads(&dm, "without the laptop").await;
}

async fn what_was_lost_meanwhile_is_made_up_for(how: How) {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let alice = Device::register(&a, "alice", how).await;
    let bob = Device::register(&b, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    alice.say(&dm, "before").await;
    bob.reads(&dm, "before").await;
    // He answers: with sliding sync, a client asks for the devices of others when it first writes to them.
    bob.say(&dm, "as well").await;
    alice.reads(&dm, "as well").await;

    // The servers do not reach each other; both sides go on. Messages wait with the keys to them.
    net.cut("a", "b");
    let laptop = Device::login(&b, "bob", how).await;
    laptop.joined(&dm).await;
    alice.say(&dm, "into the void").await;
    bob.say(&dm, "anybody there?").await;
    net.heal("a", "b");
    bob.reads(&dm, "into the void").await;
    alice.reads(&dm, "anybody there?").await;
    laptop.reads(&dm, "anybody there?").await;
    knows(&alice, &laptop, true).await;
    alice.say(&dm, "welcome").await;
    for reader in [&bob, &laptop] {
        reader.reads(&dm, "welcome").await;
    }
}

/// Waits until a client knows a device of another user, or no longer does.
async fn knows(client: &Device, other: &Device, wanted: bool) {
    let (user, device) = (other.user_id().unwrap(), other.device_id().unwrap());
    until(&format!("{} knows {device}: {wanted}", client.me()), async || {
        let known = client.encryption().get_device(user, device).await.unwrap().is_some();
        (known == wanted).then_some(())
    })
    .await;
}
