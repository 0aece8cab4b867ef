//! Verification by comparing emoji, between devices of one user and between users.

use matrix_sdk::encryption::{
    VerificationState,
    verification::{Verification, VerificationRequest},
};

use crate::{
    common::TestServer,
    device::{Device, How, until, until_equal},
};

however_it_syncs!(own_devices_and_another_user);

async fn own_devices_and_another_user(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let tablet = Device::login(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;

    // Her tablet is not trusted until she compares emoji; then it gets the private keys from her phone.
    until_equal("the phone is verified", VerificationState::Verified, async || state(&alice)).await;
    until_equal("the tablet is not", VerificationState::Unverified, async || state(&tablet)).await;
    verify_own(&tablet, &alice).await;
    until("her tablet holds the private keys", async || {
        tablet.encryption().cross_signing_status().await.filter(|status| status.is_complete())
    })
    .await;

    let dm = alice.create_dm(bob.me()).await.unwrap().room_id().to_owned();
    bob.accept(&dm).await;
    until("alice sees that bob joined", async || {
        let room = alice.joined(&dm).await;
        (room.joined_members_count() == 2 && alice.get_dm_room(bob.me()).is_some()).then_some(())
    })
    .await;
    // The request goes through the encrypted room. A client that hears of it before it has the room's key never takes it
    // up, and with connections of their own for rooms and keys it may: so the key is there first.
    alice.say(&dm, "who are you?").await;
    bob.reads(&dm, "who are you?").await;
    verify_other(&alice, &bob).await;
    for device in [&alice, &tablet] {
        until(&format!("{:?} trusts bob", device.device_id()), async || {
            let bob = device.encryption().get_user_identity(bob.me()).await.unwrap()?;
            bob.is_verified().then_some(())
        })
        .await;
    }
    until("bob trusts alice", async || {
        let alice = bob.encryption().get_user_identity(alice.me()).await.unwrap()?;
        alice.is_verified().then_some(())
    })
    .await;
}

/// Has a new device of a user ask the others to be verified; `old` accepts.
pub async fn verify_own(new: &Device, old: &Device) {
    let identity =
        until("it knows its user's identity", async || new.encryption().request_user_identity(new.me()).await.unwrap())
            .await;
    until("the old device knows the new one", async || {
        old.encryption().get_device(old.me(), new.device_id().unwrap()).await.unwrap()
    })
    .await;
    compare_emoji(new, identity.request_verification().await.unwrap(), old).await;
    until_equal("the new device is verified", VerificationState::Verified, async || state(new)).await;
}

/// Has `one` ask another user to verify, who accepts; both trust each other's identity afterwards.
pub async fn verify_other(one: &Device, other: &Device) {
    let identity = until("the other's identity is known", async || {
        one.encryption().request_user_identity(other.me()).await.unwrap()
    })
    .await;
    compare_emoji(one, identity.request_verification().await.unwrap(), other).await;
}

fn state(device: &Device) -> VerificationState {
    device.encryption().verification_state().get()
}

async fn compare_emoji(one: &Device, request: VerificationRequest, other: &Device) {
    let flow = request.flow_id().to_owned();
    let received =
        until("the request arrives", async || other.encryption().get_verification_request(one.me(), &flow).await).await;
    received.accept().await.unwrap();
    until("the request is accepted", async || request.is_ready().then_some(())).await;
    let ours = request.start_sas().await.unwrap().expect("emoji are possible");
    let theirs = until("the comparison starts", async || {
        other.encryption().get_verification(one.me(), &flow).await.and_then(Verification::sas)
    })
    .await;
    theirs.accept().await.unwrap();
    until("both see emoji", async || {
        assert!(!ours.is_cancelled() && !theirs.is_cancelled(), "{:?}", ours.cancel_info());
        (ours.can_be_presented() && theirs.can_be_presented()).then_some(())
    })
    .await;
    let names = |emoji: Option<[matrix_sdk::encryption::verification::Emoji; 7]>| {
        emoji.expect("seven emoji").map(|emoji| emoji.description)
    };
    assert_eq!(names(ours.emoji()), names(theirs.emoji()));
    // The other confirms without having heard of our confirmation: a client that hears of it meanwhile sends that it is
    // done beside its confirmation, and of two requests at once either may be the first.
    other.pause().await;
    ours.confirm().await.unwrap();
    theirs.confirm().await.unwrap();
    other.resume().await;
    until("both are done", async || {
        assert!(!ours.is_cancelled() && !theirs.is_cancelled(), "{:?}", ours.cancel_info());
        (ours.is_done() && theirs.is_done()).then_some(())
    })
    .await;
}
