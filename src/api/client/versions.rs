//! Which versions of the specification, and which proposals, this server speaks.
//!
//! What is claimed here is what the tests show. Clients choose paths and features by it.

use ruma::api::client::discovery::get_supported_versions;

use crate::{api::auth::Anyone, config::Config, error::Result, server::Server};

/// The versions of the specification.
const VERSIONS: &[&str] = &[
    "r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4",
    "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17",
    "v1.18", "v1.19",
];

/// Proposals by the names that clients ask for, each with what it is.
const FEATURES: &[(&str, &str)] = &[
    ("fi.mau.msc2659.stable", "pings of application services"),
    ("org.matrix.e2e_cross_signing", "cross-signing, asked for by clients from before v1.1"),
    ("fi.mau.msc2815", "what was redacted, for moderators"),
    ("org.matrix.msc2285.stable", "private read receipts"),
    ("org.matrix.msc2666.mutual_rooms", "mutual rooms, under the first name of the proposal"),
    ("uk.half-shot.msc2666.query_mutual_rooms", "mutual rooms"),
    ("uk.half-shot.msc2666.query_mutual_rooms.stable", "mutual rooms"),
    ("org.matrix.msc2716", "no: batches of history"),
    ("org.matrix.msc2946", "spaces' hierarchy"),
    ("org.matrix.msc3030", "no: under its unstable name"),
    ("org.matrix.msc3026.busy_presence", "no: the presence \"busy\""),
    ("org.matrix.msc3391", "the deletion of account data"),
    ("org.matrix.msc3440.stable", "threads"),
    ("org.matrix.msc3771", "receipts of threads"),
    ("org.matrix.msc3773", "counts of threads"),
    ("org.matrix.msc3814", "dehydrated devices"),
    ("org.matrix.msc3827.stable", "room types in the list of public rooms"),
    ("org.matrix.msc3874", "filters by relation types"),
    ("org.matrix.msc3881", "pushers that are switched off from elsewhere"),
    ("org.matrix.msc3882", "no: tokens for another login, under the first form of the proposal"),
    ("org.matrix.msc3890", "notification settings of a device, which go with it"),
    ("org.matrix.msc3912", "the redaction of what relates to an event"),
    ("org.matrix.msc3916.stable", "media with authentication"),
    ("org.matrix.msc4028", "a push rule for all encrypted events"),
    ("org.matrix.msc4108", "where devices meet of which one is not logged in"),
    ("io.element.msc4388", "the same in a newer form"),
    ("org.matrix.msc4140", "delayed events"),
    ("org.matrix.msc4140.stable", "the same, as they were accepted"),
    ("org.matrix.msc4143", "the ways for group calls"),
    ("org.matrix.msc4155", "whose invitations a user wants"),
    ("org.matrix.msc4222", "the state after the timeline in /sync"),
    ("org.matrix.simplified_msc3575", "simplified sliding sync"),
    ("org.matrix.msc4293", "redactions with a kick or ban"),
    ("org.matrix.msc4306", "threads that users follow"),
    ("org.matrix.msc4308", "the same in sliding sync"),
    ("org.matrix.msc4354", "sticky events"),
    ("org.matrix.msc4380", "the blocking of all invitations"),
    ("org.matrix.msc4380.stable", "the same, as it was accepted"),
    ("uk.tcpip.msc4133", "profiles with any field"),
    ("uk.tcpip.msc4133.stable", "profiles with any field"),
];

/// `GET /_matrix/client/versions`
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
pub async fn get_versions(
    server: &Server,
    _: Anyone,
    _: get_supported_versions::Request,
) -> Result<get_supported_versions::Response> {
    let mut response = get_supported_versions::Response::new(VERSIONS.iter().map(|&version| version.into()).collect());
    let features = FEATURES.iter().map(|&(name, what)| (name.to_owned(), is_enabled(&server.config(), name, what)));
    response.unstable_features = features.collect();
    Ok(response)
}

/// Whether there is such a feature here; some depend on what the administrator chose.
fn is_enabled(config: &Config, name: &str, what: &str) -> bool {
    match name {
        "fi.mau.msc2815" => !config.redaction_retention.is_zero(),
        "org.matrix.msc4140" | "org.matrix.msc4140.stable" => !config.delayed_events.max_delay.is_zero(),
        _ => !what.starts_with("no: "),
    }
}
