//! The whole API surface on one page: one line for each operation.
//!
//! Method, paths (also `r0` and unstable ones), authentication and rate limit are those of the handler's request type.

use crate::{
    api::{client::*, synapse_admin},
    http::{Route, on, stream},
    server::Server,
};

/// Every route of the server.
pub fn routes() -> Vec<Route<Server>> {
    let mut routes = client_server();
    routes.extend(server_server());
    routes
}

/// What other servers ask.
fn server_server() -> Vec<Route<Server>> {
    use crate::api::federation::*;
    vec![
        // Names and keys
        on(wellknown::get_well_known),
        on(version::get_version),
        on(keys_server::get_server_key).also("/_matrix/key/v2/server/{key_id}"),
        on(keys_query::perspectives_key_query),
        on(keys_query::bulk_perspectives_key_query),
        on(openid::exchange_open_id_token),
        // Events
        on(transactions::send_transaction),
        // Devices and keys
        on(user_devices::get_user_devices),
        on(user_keys::query_user_encryption_keys),
        on(user_keys::claim_user_encryption_keys),
        // Rooms and users
        on(query::query_info),
        on(query::query_room_directory),
        on(query::query_profile),
        on(public_rooms::get_public_rooms),
        on(public_rooms::query_public_rooms),
        on(space_hierarchy::get_space_hierarchy),
        // Events
        on(events::get_event),
        stream(events::get_room_state),
        on(events::get_room_state_ids),
        on(events::get_event_by_timestamp),
        stream(event_auth::get_event_auth),
        on(backfill::backfill_room),
        on(backfill::get_missing_previous_events),
        // Coming and going
        on(joins::make_join),
        on(joins::send_join_v2),
        on(leaving::make_leave),
        on(leaving::send_leave_v2),
        on(knocks::make_knock),
        on(knocks::send_knock),
        on(invites::send_invite_v1),
        on(invites::send_invite_v2),
        on(third_party_invite::exchange_third_party_invite),
        on(third_party_invite::on_bind_third_party_identifier).rate_limited(),
        // Media
        stream(content_repository::get_content),
        stream(content_repository::get_content_thumbnail),
    ]
}

/// What clients ask.
fn client_server() -> Vec<Route<Server>> {
    vec![
        // Accounts
        on(versions::get_versions),
        on(wellknown::get_wellknown),
        on(support::get_wellknown_support),
        on(capabilities::get_capabilities),
        on(registration::register),
        on(registration::check_username_availability),
        on(registration_tokens::registration_token_validity),
        on(login::get_login_flows),
        on(login::login),
        on(login_token::generate_login_token),
        on(refresh::refresh),
        on(logout::logout),
        on(logout::logout_all),
        on(whoami::get_token_owner),
        on(password_management::change_password),
        on(administrative_contact::get_account_3pids),
        on(account_deactivation::deactivate_account),
        on(device_management::get_devices),
        on(device_management::get_device),
        on(device_management::update_device),
        on(device_management::delete_device),
        on(device_management::delete_devices),
        on(profile::set_profile_field),
        on(profile::delete_profile_field),
        on(profile::get_user_profile),
        on(profile::get_profile_field),
        on(presence::set_presence),
        on(presence::get_presence),
        on(users::search_user_directory),
        on(mutual_rooms::get_mutual_rooms),
        on(mutual_rooms::get_mutual_rooms_unstable),
        on(report_content::report_room),
        on(report_content::report_event),
        on(report_content::report_user),
        on(admin::get_who_is),
        on(admin::get_admin_lock_user),
        on(admin::set_admin_lock_user),
        on(admin::get_admin_suspend_user),
        on(admin::set_admin_suspend_user),
        on(synapse_admin::register_nonce),
        on(synapse_admin::register_with_secret),
        on(filter::define_filter),
        on(filter::get_filter),
        on(account_data::set_account_data),
        on(account_data::get_account_data),
        on(account_data::set_account_data_per_room),
        on(account_data::get_account_data_per_room),
        on(tags::get_room_tags),
        on(tags::set_room_tag),
        on(tags::delete_room_tag),
        on(openid::request_open_id_token),
        on(voip::get_turn_server),
        on(pusher::get_pushers),
        on(pusher::post_pusher),
        // Syncing
        on(sync::sync),
        on(sliding_sync::sliding_sync),
        on(sliding_sync::sliding_sync_v4),
        on(old_sync::initial_sync).also("/_matrix/client/r0/initialSync"),
        on(old_sync::get_events),
        on(old_sync::get_one_event).also("/_matrix/client/r0/events/{event_id}"),
        on(room_initial_sync::room_initial_sync),
        // Rooms
        on(create_room::create_room),
        on(joining::join_room_by_id),
        on(joining::join_room),
        on(knocking::knock_room),
        on(inviting::invite_user),
        on(leaving::leave_room),
        on(leaving::forget_room),
        on(kicking::kick),
        on(banning::ban),
        on(banning::unban),
        on(list_joined_rooms::get_joined_rooms),
        on(room_upgrades::upgrade_room),
        // Events
        on(room_send::send_message).body_required(),
        on(room_state::set_room_state_with_key)
            .body_required()
            .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
            .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}"),
        on(redaction::redact_event),
        on(rooms::get_one_room_event),
        on(rooms::get_room_state_with_key)
            .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
            .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}"),
        on(rooms::get_room_state),
        on(rooms::get_members_by_room),
        on(rooms::get_joined_members_by_room),
        on(message_pagination::get_room_events),
        on(event_context::get_event_context),
        on(relations::get_relating_events),
        on(relations::get_relating_events_with_rel_type),
        on(relations::get_relating_events_with_rel_type_and_event_type),
        on(threads_list::get_thread_roots),
        on(room_event_by_timestamp::get_event_by_timestamp),
        on(search::search),
        // Finding rooms
        on(directory::set_room_alias),
        on(directory::get_room_id_by_alias),
        on(directory::delete_room_alias),
        on(directory::get_local_aliases),
        on(list_public_rooms::get_room_visibility_on_directory),
        on(list_public_rooms::set_room_visibility_on_directory),
        on(list_public_rooms::get_public_rooms),
        on(list_public_rooms::query_public_rooms),
        on(space_hierarchy::get_space_hierarchy),
        on(room_summary::get_room_summary).also("/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}"),
        // Application services, and other networks through them
        on(appservice_ping::ping_appservice),
        on(appservice_room_directory::update_appservice_room_directory_visibility),
        on(third_party_lookup::get_protocols),
        on(third_party_lookup::get_protocol_metadata),
        on(third_party_lookup::query_location_by_protocol),
        on(third_party_lookup::query_user_by_protocol),
        on(third_party_lookup::query_location_by_alias),
        on(third_party_lookup::query_user_by_id),
        // End-to-end encryption
        on(keys::upload_keys),
        on(keys::query_keys),
        on(keys::claim_keys),
        on(keys::get_keys_changes),
        on(cross_signing::upload_cross_signing_keys),
        on(cross_signing::upload_cross_signing_signatures),
        on(to_device::send_to_device),
        on(key_backup::post_room_keys_version),
        on(key_backup::get_room_keys_version_current),
        on(key_backup::get_room_keys_version),
        on(key_backup::put_room_keys_version),
        on(key_backup::delete_room_keys_version),
        on(key_backup::put_room_key_by_session_id),
        on(key_backup::get_room_key_by_session_id),
        on(key_backup::delete_room_key_by_session_id),
        on(key_backup::put_room_keys_by_room_id),
        on(key_backup::get_room_keys_by_room_id),
        on(key_backup::delete_room_keys_by_room_id),
        on(key_backup::put_room_keys),
        on(key_backup::get_room_keys),
        on(key_backup::delete_room_keys),
        // Push rules, notifications, receipts, typing
        on(pushrules::get_push_rules),
        on(pushrules::get_push_rules_global),
        on(pushrules::get_push_rule),
        on(pushrules::delete_push_rule),
        on(pushrules::set_push_rule),
        on(pushrules::is_push_rule_enabled),
        on(pushrules::set_push_rule_enabled),
        on(pushrules::get_push_rule_actions),
        on(pushrules::set_push_rule_actions),
        on(notifications::get_notifications),
        on(receipts::post_receipt),
        on(read_markers::set_read_marker),
        on(typing::set_typing),
        // Media
        stream(content_repo::upload_content),
        on(content_repo::create_content),
        stream(content_repo::upload_content_to_mxc),
        on(content_repo::get_config),
        on(content_repo::get_url_preview),
        on(content_repo::get_content),
        on(content_repo::get_content_override_name),
        on(content_repo::get_content_thumbnail),
        on(authed_content_repo::get_config_authed),
        on(authed_content_repo::get_url_preview_authed),
        stream(authed_content_repo::get_content_authed),
        stream(authed_content_repo::get_content_override_name_authed),
        stream(authed_content_repo::get_content_thumbnail_authed),
    ]
}
