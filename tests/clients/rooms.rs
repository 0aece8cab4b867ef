//! Rooms as the client sees them: invitations, members, names, settings, leaving.

use matrix_sdk::{
    RoomDisplayName, RoomMemberships, RoomState,
    room::RoomMemberRole,
    ruma::{
        Int, OwnedRoomOrAliasId, RoomOrAliasId,
        api::client::{
            directory::get_public_rooms_filtered::v3::Request as Search,
            room::{Visibility, create_room::v3 as create_room, create_room::v3::RoomPreset},
        },
        events::{
            room::{join_rules::RoomJoinRulesEventContent, member::MembershipState},
            tag::TagInfo,
        },
        room::{JoinRule, JoinRuleSummary},
        room_alias_id,
        serde::Raw,
    },
};

use crate::{
    common::TestServer,
    device::{Device, How, room_with, until, until_equal},
};

however_it_syncs!(
    invited_joined_kicked_and_banned,
    names_and_heroes,
    profile_reaches_rooms,
    settings_and_powers,
    found_and_knocked_on,
    tags_and_marks,
);

async fn invited_joined_kicked_and_banned(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let phone = Device::login(&server, "bob", how).await;

    let mut request = create_room::Request::new();
    request.name = Some("Kitchen".to_owned());
    request.topic = Some("What is for dinner".to_owned());
    let id = alice.create_room(request).await.unwrap().room_id().to_owned();
    let room = alice.joined(&id).await;
    room.invite_user_by_id(bob.me()).await.unwrap();

    // The invitation says who, where to and what it is called, on all devices.
    for device in [&bob, &phone] {
        let invited = device.room_in(&id, RoomState::Invited).await;
        let details = until("the invitation is stored", async || invited.invite_details().await.ok()).await;
        assert_eq!(details.inviter_id, alice.me());
        assert_eq!(details.inviter.unwrap().display_name(), Some("alice"));
        assert_eq!(invited.display_name().await.unwrap(), RoomDisplayName::Named("Kitchen".to_owned()));
    }
    bob.accept(&id).await;
    // Another one is declined. The client forgets such a room at once; others hear of it nevertheless.
    let declined = alice.create_room(create_room::Request::new()).await.unwrap().room_id().to_owned();
    let unwanted = alice.joined(&declined).await;
    unwanted.invite_user_by_id(bob.me()).await.unwrap();
    phone.room_in(&declined, RoomState::Invited).await;
    bob.room_in(&declined, RoomState::Invited).await.leave().await.unwrap();
    phone.room_in(&declined, RoomState::Left).await;
    until_equal("alice sees it declined", Some(MembershipState::Leave), async || {
        Some(unwanted.get_member(bob.me()).await.unwrap()?.membership().clone())
    })
    .await;

    let joined = phone.joined(&id).await;
    until_equal("the topic arrives", Some("What is for dinner".to_owned()), async || joined.topic()).await;
    until_equal("two are joined", 2, async || room.joined_members_count()).await;
    let names = room.members(RoomMemberships::JOIN).await.unwrap();
    assert_eq!(names.len(), 2);

    room.kick_user(bob.me(), Some("go to bed")).await.unwrap();
    for device in [&bob, &phone] {
        device.room_in(&id, RoomState::Left).await;
    }
    room.ban_user(bob.me(), None).await.unwrap();
    for device in [&bob, &phone] {
        until("bob sees the ban or that he left", async || {
            let state = device.get_room(&id)?.state();
            matches!(state, RoomState::Banned | RoomState::Left).then_some(())
        })
        .await;
    }
    assert!(bob.join_room_by_id(&id).await.is_err());
    room.unban_user(bob.me(), None).await.unwrap();
    room.invite_user_by_id(bob.me()).await.unwrap();
    bob.room_in(&id, RoomState::Invited).await.join().await.unwrap();
    bob.joined(&id).await;
    alice.say(&id, "welcome again").await;
    bob.reads(&id, "welcome again").await;

    let left = bob.joined(&id).await;
    left.leave().await.unwrap();
    phone.room_in(&id, RoomState::Left).await;
    until_equal("one is left", 1, async || room.joined_members_count()).await;
    bob.room_in(&id, RoomState::Left).await.forget().await.unwrap();
}

async fn names_and_heroes(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let carol = Device::register(&server, "carol", how).await;

    // A room without a name is called after those in it, also by those who do not know all members.
    let id = room_with(&alice, "", &[&bob, &carol]).await;
    for (device, name) in [(&alice, "bob, carol"), (&bob, "alice, carol"), (&carol, "alice, bob")] {
        let room = device.joined(&id).await;
        until_equal(
            &format!("the name for {}", device.me()),
            RoomDisplayName::Calculated(name.to_owned()),
            async || room.display_name().await.unwrap(),
        )
        .await;
        until_equal("three are in it", 3, async || room.active_members_count()).await;
    }
    carol.joined(&id).await.leave().await.unwrap();
    let room = alice.joined(&id).await;
    until_equal("after carol left", RoomDisplayName::Calculated("bob".to_owned()), async || {
        room.display_name().await.unwrap()
    })
    .await;
    room.set_name("Family".to_owned()).await.unwrap();
    let theirs = bob.joined(&id).await;
    until_equal("named", RoomDisplayName::Named("Family".to_owned()), async || theirs.display_name().await.unwrap())
        .await;
    room.set_name(String::new()).await.unwrap();
    until_equal("no longer named", RoomDisplayName::Calculated("alice".to_owned()), async || {
        theirs.display_name().await.unwrap()
    })
    .await;
    bob.joined(&id).await.leave().await.unwrap();
    until_equal("all gone", RoomDisplayName::EmptyWas("bob".to_owned()), async || {
        match room.display_name().await.unwrap() {
            RoomDisplayName::EmptyWas(name) if name.contains("bob") => RoomDisplayName::EmptyWas("bob".to_owned()),
            other => other,
        }
    })
    .await;
}

async fn profile_reaches_rooms(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Hall", &[&bob]).await;

    alice.account().set_display_name(Some("Alice in Wonderland")).await.unwrap();
    let picture = crate::media::png(8, 8);
    let avatar = alice.account().upload_avatar(&"image/png".parse().unwrap(), picture.clone()).await.unwrap();
    // Lazy loading gives a client the members whose events it sees.
    alice.say(&id, "look at me").await;
    bob.reads(&id, "look at me").await;
    let room = bob.joined(&id).await;
    until_equal("bob sees the profile", Some((Some("Alice in Wonderland".to_owned()), Some(avatar))), async || {
        let member = room.get_member_no_sync(alice.me()).await.unwrap()?;
        Some((member.display_name().map(str::to_owned), member.avatar_url().map(ToOwned::to_owned)))
    })
    .await;
    let shown = room.get_member_no_sync(alice.me()).await.unwrap().unwrap();
    let file = matrix_sdk::media::MediaFormat::File;
    assert_eq!(shown.avatar(file).await.unwrap(), Some(picture));
    let found = bob.search_users("wonder", 10).await.unwrap();
    assert_eq!(found.results.iter().map(|user| &*user.user_id).collect::<Vec<_>>(), [alice.me()]);
    assert_eq!(alice.account().get_display_name().await.unwrap().as_deref(), Some("Alice in Wonderland"));
}

async fn settings_and_powers(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Council", &[&bob]).await;
    let (room, theirs) = (alice.joined(&id).await, bob.joined(&id).await);

    assert!(theirs.set_room_topic("bob's topic").await.is_err());
    room.update_power_levels(vec![(bob.me(), Int::from(50))]).await.unwrap();
    until("bob may change the topic", async || {
        let levels = theirs.power_levels().await.ok()?;
        levels.user_can_send_state(bob.me(), matrix_sdk::ruma::events::StateEventType::RoomTopic).then_some(())
    })
    .await;
    assert_eq!(theirs.get_suggested_user_role(bob.me()).await.unwrap(), RoomMemberRole::Moderator);
    assert_eq!(theirs.get_suggested_user_role(alice.me()).await.unwrap(), RoomMemberRole::Creator);
    theirs.set_room_topic("bob's topic").await.unwrap();
    until_equal("alice sees the topic", Some("bob's topic".to_owned()), async || room.topic()).await;

    room.enable_encryption().await.unwrap();
    until("bob's client encrypts", async || {
        theirs.latest_encryption_state().await.unwrap().is_encrypted().then_some(())
    })
    .await;
    bob.say(&id, "secret").await;
    alice.reads(&id, "secret").await;
}

async fn found_and_knocked_on(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let mut request = create_room::Request::new();
    request.name = Some("Club".to_owned());
    request.preset = Some(RoomPreset::PublicChat);
    request.visibility = Visibility::Public;
    request.room_alias_name = Some("club".to_owned());
    let id = alice.create_room(request).await.unwrap().room_id().to_owned();
    let room = alice.joined(&id).await;

    let mut search = Search::new();
    search.filter.generic_search_term = Some("club".to_owned());
    let found = bob.public_rooms_filtered(search).await.unwrap();
    assert_eq!(found.chunk.len(), 1);
    assert_eq!(found.chunk[0].room_id, id);
    let alias: OwnedRoomOrAliasId = "#club:localhost".try_into().unwrap();
    let preview = bob.get_room_preview(&alias, Vec::new()).await.unwrap();
    assert_eq!((preview.name.as_deref(), preview.num_joined_members), (Some("Club"), 1));

    // From now on one has to knock.
    room.send_state_event(RoomJoinRulesEventContent::new(JoinRule::Knock)).await.unwrap();
    assert!(bob.join_room_by_id_or_alias(&alias, &[]).await.is_err());
    let preview = bob.get_room_preview(<&RoomOrAliasId>::from(&*id), Vec::new()).await.unwrap();
    assert_eq!(preview.join_rule, Some(JoinRuleSummary::Knock));
    bob.knock(alias.clone(), Some("let me in".to_owned()), Vec::new()).await.unwrap();
    until_equal("alice hears the knock", Some(MembershipState::Knock), async || {
        Some(room.get_member(bob.me()).await.unwrap()?.membership().clone())
    })
    .await;
    bob.room_in(&id, RoomState::Knocked).await;
    room.invite_user_by_id(bob.me()).await.unwrap();
    bob.accept(&id).await;
    assert_eq!(bob.resolve_room_alias(room_alias_id!("#club:localhost")).await.unwrap().room_id, id);
}

async fn tags_and_marks(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let tablet = Device::login(&server, "alice", how).await;
    let id = room_with(&alice, "Notes", &[]).await;
    let (room, theirs) = (alice.joined(&id).await, tablet.joined(&id).await);

    room.set_is_favourite(true, Some(0.5)).await.unwrap();
    until_equal("a favourite", true, async || theirs.is_favourite()).await;
    room.set_tag("u.work".into(), TagInfo::new()).await.unwrap();
    until("a tag", async || theirs.tags().await.unwrap()?.contains_key(&"u.work".into()).then_some(())).await;
    room.set_is_favourite(false, None).await.unwrap();
    until_equal("not a favourite", false, async || theirs.is_favourite()).await;
    room.set_unread_flag(true).await.unwrap();
    until_equal("marked unread", true, async || theirs.is_marked_unread()).await;
    theirs.set_unread_flag(false).await.unwrap();
    until_equal("no longer", false, async || room.is_marked_unread()).await;

    let content = Raw::from_json_string(r#"{"order":["a","b"]}"#.to_owned()).unwrap();
    alice.account().set_account_data_raw("org.example.order".into(), content).await.unwrap();
    until("account data", async || tablet.account().account_data_raw("org.example.order".into()).await.unwrap()).await;
    alice.account().mark_as_dm(&id, &[alice.me().to_owned()]).await.unwrap();
    until_equal("direct", 1, async || theirs.direct_targets_length()).await;
}
