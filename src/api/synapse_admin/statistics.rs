//! Statistics ([reference](https://element-hq.github.io/synapse/latest/admin_api/statistics.html)).

use std::collections::BTreeMap;

use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use super::{Nothing, Paging, Reply, ok, requests};
use crate::{
    api::auth::Administrator,
    error::Result,
    ids::RoomNo,
    rooms,
    server::Server,
    store::{
        Direction,
        trees::{EVENTS, MEDIA},
    },
    users::profiles,
};

requests! {
    /// `GET /_synapse/admin/v1/statistics/users/media`
    MediaOfUsers = GET "/_synapse/admin/v1/statistics/users/media" (Nothing, MediaQuery, Nothing);
    /// `GET /_synapse/admin/v1/statistics/database/rooms`
    LargestRooms = GET "/_synapse/admin/v1/statistics/database/rooms" (Nothing, Nothing, Nothing);
}

/// Which files to count.
#[derive(Debug, Deserialize)]
pub struct MediaQuery {
    #[serde(flatten)]
    paging: Paging,
    from_ts: Option<u64>,
    until_ts: Option<u64>,
    search_term: Option<String>,
}

/// How many rooms are the largest.
const LARGEST: usize = 10;

/// `GET /_synapse/admin/v1/statistics/users/media`
pub async fn media_of_users(server: &Server, _: Administrator, req: MediaOfUsers) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let mut sums: BTreeMap<OwnedUserId, (u64, u64)> = BTreeMap::new();
    for row in MEDIA.scan(&read, (), Direction::Forward) {
        let (_, file) = row?;
        let (Some(user), Some(content)) = (file.user, file.content) else { continue };
        if query.from_ts.is_none_or(|from| file.created_ts >= from)
            && query.until_ts.is_none_or(|until| file.created_ts <= until)
        {
            let sum = sums.entry(user).or_default();
            *sum = (sum.0 + 1, sum.1 + content.size);
        }
    }
    let term = query.search_term.as_deref().map(str::to_lowercase);
    let mut rows = Vec::new();
    for (user, (count, bytes)) in sums {
        let profile = profiles::get(&read, &user)?;
        let name = profile.display_name();
        let matches = |term: &String| {
            user.localpart().to_lowercase().contains(term)
                || name.is_some_and(|name| name.to_lowercase().contains(term))
        };
        if term.as_ref().is_none_or(matches) {
            rows.push(json!({ "user_id": user, "displayname": name, "media_count": count, "media_length": bytes }));
        }
    }
    query.paging.sort(&mut rows, "user_id");
    ok(query.paging.page("users", rows))
}

/// `GET /_synapse/admin/v1/statistics/database/rooms`: by the size of their events. Looks at all of them.
pub async fn largest_rooms(server: &Server, _: Administrator, _: LargestRooms) -> Result<Reply> {
    let read = server.store.read();
    let mut sizes: BTreeMap<RoomNo, u64> = BTreeMap::new();
    for row in EVENTS.scan(&read, (), Direction::Forward) {
        let (_, row) = row?;
        *sizes.entry(row.room).or_default() += row.json.len() as u64;
    }
    let mut largest: Vec<_> = sizes.into_iter().collect();
    largest.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let mut shown = Vec::new();
    for (no, size) in largest.into_iter().take(LARGEST) {
        shown.push(json!({ "room_id": rooms::get(&read, no)?.id, "estimated_size": size }));
    }
    ok(json!({ "rooms": shown }))
}
