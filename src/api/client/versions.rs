//! Which versions of the specification, and which proposals, this server speaks.
//!
//! What is claimed here is what the tests show. Clients choose paths and features by it.

use ruma::api::client::discovery::get_supported_versions;

use crate::{api::auth::Anyone, error::Result, server::Server};

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
    ("org.matrix.label_based_filtering", "filters with labels"),
    ("org.matrix.msc2285.stable", "private read receipts"),
    ("org.matrix.msc2666.mutual_rooms", "mutual rooms, under the first name of the proposal"),
    ("uk.half-shot.msc2666.query_mutual_rooms", "mutual rooms"),
    ("uk.half-shot.msc2666.query_mutual_rooms.stable", "mutual rooms"),
    ("org.matrix.msc2716", "no: batches of history"),
    ("org.matrix.msc2946", "spaces' hierarchy"),
    ("org.matrix.msc3030", "no: under its unstable name"),
    ("org.matrix.msc3026.busy_presence", "no: the presence \"busy\""),
    ("org.matrix.msc3440.stable", "threads"),
    ("org.matrix.msc3771", "receipts of threads"),
    ("org.matrix.msc3773", "counts of threads"),
    ("org.matrix.msc3827.stable", "room types in the list of public rooms"),
    ("org.matrix.msc3882", "no: tokens for another login, under the first form of the proposal"),
    ("org.matrix.msc3916.stable", "media with authentication"),
    ("org.matrix.msc4222", "the state after the timeline in /sync"),
    ("org.matrix.simplified_msc3575", "simplified sliding sync"),
    ("uk.tcpip.msc4133", "profiles with any field"),
    ("uk.tcpip.msc4133.stable", "profiles with any field"),
];

/// `GET /_matrix/client/versions`
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
pub async fn get_versions(
    _: &Server,
    _: Anyone,
    _: get_supported_versions::Request,
) -> Result<get_supported_versions::Response> {
    let mut response = get_supported_versions::Response::new(VERSIONS.iter().map(|&version| version.into()).collect());
    let enabled = |what: &str| !what.starts_with("no: ");
    response.unstable_features = FEATURES.iter().map(|&(name, what)| (name.to_owned(), enabled(what))).collect();
    Ok(response)
}
