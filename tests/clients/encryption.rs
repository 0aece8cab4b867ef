//! Encrypted conversations, key backups and recovery.

use matrix_sdk::{
    encryption::{CrossSigningResetAuthType, VerificationState, backups::BackupState, recovery::RecoveryState},
    room::MessagesOptions,
    ruma::{RoomId, UInt},
};

use crate::{
    common::TestServer,
    device::{Device, How, text, until, until_equal},
    verification::verify_own,
};

however_it_syncs!(two_users_with_two_devices, a_new_login_recovers, identity_is_reset);

async fn two_users_with_two_devices(how: How) {
    let server = TestServer::start().await;
    let phone = Device::register(&server, "alice", how).await;
    let tablet = Device::login(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let laptop = Device::login(&server, "bob", how).await;

    let dm = encrypted_dm(&phone, &bob).await;
    for device in [&phone, &tablet, &bob, &laptop] {
        device.joined(&dm).await;
    }
    // Everyone writes, everyone reads all: the keys of each sender reach all devices of both.
    let devices = [&phone, &tablet, &bob, &laptop];
    for (number, device) in devices.iter().enumerate() {
        device.say(&dm, &format!("message {number}")).await;
        for reader in devices {
            reader.reads(&dm, &format!("message {number}")).await;
        }
    }
    assert!(phone.timeline(&dm).await.iter().filter(|event| event.encryption_info().is_some()).count() >= 4);

    // A device that logs out is gone for others, who then write without it.
    laptop.logout().await.unwrap();
    let gone = laptop.device_id().unwrap();
    until("alice no longer knows bob's laptop", async || {
        phone.encryption().get_device(bob.me(), gone).await.unwrap().is_none().then_some(())
    })
    .await;
    phone.say(&dm, "without the laptop").await;
    bob.reads(&dm, "without the laptop").await;
}

async fn a_new_login_recovers(how: How) {
    let server = TestServer::start().await;
    let phone = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let dm = encrypted_dm(&phone, &bob).await;
    phone.say(&dm, "from alice").await;
    bob.reads(&dm, "from alice").await;
    bob.say(&dm, "from bob").await;
    phone.reads(&dm, "from bob").await;

    let key = phone.encryption().recovery().enable().wait_for_backups_to_upload().await.unwrap();
    assert_eq!(phone.encryption().recovery().state(), RecoveryState::Enabled);

    // A second device gets the backup's key by verification and puts its own messages' keys there too.
    let tablet = Device::login(&server, "alice", how).await;
    tablet.joined(&dm).await;
    verify_own(&tablet, &phone).await;
    until_equal("the tablet uses the backup", BackupState::Enabled, async || tablet.encryption().backups().state())
        .await;
    assert_eq!(history(&tablet, &dm).await, ["from alice", "from bob"]);
    tablet.say(&dm, "from the tablet").await;
    bob.reads(&dm, "from the tablet").await;
    tablet.encryption().backups().wait_for_steady_state().await.unwrap();
    phone.logout().await.unwrap();
    tablet.logout().await.unwrap();

    // With all devices gone, the recovery key brings identity and messages back.
    let anew = Device::login(&server, "alice", how).await;
    anew.joined(&dm).await;
    assert!(anew.encryption().recovery().recover("EsTc not a key").await.is_err());
    until_equal("there is something to recover", RecoveryState::Incomplete, async || {
        anew.encryption().recovery().state()
    })
    .await;
    anew.encryption().recovery().recover(&key).await.unwrap();
    assert_eq!(anew.encryption().recovery().state(), RecoveryState::Enabled);
    until_equal("it is verified", VerificationState::Verified, async || anew.encryption().verification_state().get())
        .await;
    assert_eq!(history(&anew, &dm).await, ["from alice", "from bob", "from the tablet"]);
    anew.say(&dm, "back again").await;
    bob.reads(&dm, "back again").await;
    bob.say(&dm, "welcome back").await;
    anew.reads(&dm, "welcome back").await;

    // Another recovery key replaces the first.
    let other = anew.encryption().recovery().reset_key().await.unwrap();
    assert_ne!(other, key);
    let last = Device::login(&server, "alice", how).await;
    assert!(last.encryption().recovery().recover(&key).await.is_err());
    last.encryption().recovery().recover(&other).await.unwrap();
    last.encryption().recovery().disable().await.unwrap();
    until_equal("the backup is gone", false, async || {
        last.encryption().backups().fetch_exists_on_server().await.unwrap()
    })
    .await;
}

async fn identity_is_reset(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    alice.say(&dm, "before").await;
    bob.reads(&dm, "before").await;
    let before = until("bob knows alice", async || bob.encryption().get_user_identity(alice.me()).await.unwrap()).await;

    // Other keys need the password; a wrong one changes nothing.
    let handle = alice.encryption().reset_cross_signing().await.unwrap().expect("a challenge");
    let CrossSigningResetAuthType::Uiaa(challenge) = handle.auth_type() else { panic!("no challenge") };
    let session = challenge.session.clone();
    assert!(handle.auth(Some(bob.proof(session.clone()))).await.is_err());
    handle.auth(Some(alice.proof(session))).await.unwrap();
    until("bob sees that alice has another identity", async || {
        let now = bob.encryption().get_user_identity(alice.me()).await.unwrap()?;
        (now.master_key().get_first_key() != before.master_key().get_first_key()).then_some(())
    })
    .await;
    bob.say(&dm, "after").await;
    alice.reads(&dm, "after").await;
}

/// An encrypted room of two, both in it.
pub async fn encrypted_dm(host: &Device, guest: &Device) -> matrix_sdk::ruma::OwnedRoomId {
    let dm = host.create_dm(guest.me()).await.unwrap().room_id().to_owned();
    let room = guest.accept(&dm).await;
    assert!(room.latest_encryption_state().await.unwrap().is_encrypted());
    until_equal("both are in the room", 2, async || host.joined(&dm).await.joined_members_count()).await;
    dm
}

/// The texts of the room as `/messages` gives them, the oldest first, with keys from the backup.
async fn history(device: &Device, room: &RoomId) -> Vec<String> {
    device.encryption().backups().download_room_keys_for_room(room).await.unwrap();
    let mut options = MessagesOptions::backward();
    options.limit = UInt::from(100u32);
    let messages = device.joined(room).await.messages(options).await.unwrap();
    messages.chunk.iter().rev().filter_map(text).collect()
}
