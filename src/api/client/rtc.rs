//! Group calls: where they go ([MSC4143](https://github.com/matrix-org/matrix-spec-proposals/pull/4143)), and the tokens
//! with which clients get into a LiveKit server
//! ([MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195)). Both are proposals.
//!
//! Tokens are given out as `lk-jwt-service` does it, below [`TOKEN_SERVICE`]: whoever asks proves by an OpenID token who
//! they are, also if their account is on another server, and is in the room of the call. Users of this server begin
//! calls, those of others only come to them. A user's identity and a room's name at the LiveKit server are made as that
//! service makes them, since clients compute them as well. Deliberately absent: sending somebody's delayed event when the
//! LiveKit server says that they are gone; it is sent when their client puts it off no longer.

use http::StatusCode;
use ring::digest;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, UserId,
    api::{
        auth_scheme::{AccessTokenOptional, NoAccessToken},
        client::rtc::{RtcTransport, transports::v1 as transports},
        error::ErrorKind,
        federation::openid::get_openid_userinfo,
    },
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};

use crate::{
    answers_json,
    api::{
        auth::Anyone,
        own::{self, Json},
    },
    config::Config,
    error::{Error, Result},
    operation,
    outgoing::livekit::LiveKit,
    rooms::{self, members},
    server::Server,
    store::trees::OPENID_TOKENS,
    users::login_tokens,
};

/// Where the token service is, below the address for clients. A reverse proxy passes on what begins with `/_matrix`.
const TOKEN_SERVICE: &str = "/_matrix/client/unstable/rs.conduit.livekit";

/// The only slot of a room that calls without slots are in.
const ROOM_SLOT: &str = "m.call#ROOM";

answers_json! {
    /// Ruma's type wants a token.
    pub struct TransportsRequest(transports::Request, AccessTokenOptional) => Transports;
}

/// The ways for calls.
#[derive(Debug, Serialize)]
pub struct Transports {
    rtc_transports: Vec<RtcTransport>,
}

/// `GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4143))
///
/// The call widgets of some clients ask without a token, and fail with `MISSING_MATRIX_RTC_TRANSPORT` if they get no
/// answer. The same is in the well-known file for everybody to read, so it is told to all.
pub async fn get_rtc_transports(server: &Server, _: Anyone, _: TransportsRequest) -> Result<Json<Transports>> {
    Ok(Json(Transports { rtc_transports: foci(&server.config()) }))
}

/// The ways for calls that this server knows, as the well-known file and [`get_rtc_transports`] tell them.
pub(super) fn foci(config: &Config) -> Vec<RtcTransport> {
    let service = match (&config.matrix_rtc.service_url, LiveKit::of(&config.matrix_rtc)) {
        (Some(url), _) => Some(url.as_str().to_owned()),
        (None, Some(_)) => Some(format!("{}{TOKEN_SERVICE}", config.well_known_client().trim_end_matches('/'))),
        (None, None) => None,
    };
    service.map(RtcTransport::livekit).into_iter().collect()
}

/// What proves who a user is.
#[derive(Debug, Deserialize)]
struct OpenIdToken {
    access_token: String,
    matrix_server_name: OwnedServerName,
}

/// A request for a token for the call of a room, as clients make it before slots.
#[derive(Debug, Deserialize)]
pub struct RoomTokenRequest {
    room: OwnedRoomId,
    openid_token: OpenIdToken,
    device_id: String,
}
operation!(
    POST "/_matrix/client/unstable/rs.conduit.livekit/sfu/get", NoAccessToken: RoomTokenRequest => Json<Granted>,
    |request, _args| own::body(&request)?
);

/// A request for a token for a slot of a room.
#[derive(Debug, Deserialize)]
pub struct SlotTokenRequest {
    room_id: OwnedRoomId,
    slot_id: String,
    openid_token: OpenIdToken,
    member: CallMember,
}
operation!(
    POST "/_matrix/client/unstable/rs.conduit.livekit/get_token", NoAccessToken: SlotTokenRequest => Json<Granted>,
    |request, _args| own::body(&request)?
);

/// Who wants to take part, as their member event says.
#[derive(Debug, Deserialize)]
struct CallMember {
    id: String,
    claimed_user_id: OwnedUserId,
    claimed_device_id: String,
}

/// Where to connect, and the token to do it with.
#[derive(Debug, Serialize)]
pub struct Granted {
    url: String,
    jwt: String,
}

/// `POST .../sfu/get`: the older of the two ways to ask for a token.
pub async fn get_livekit_token_for_room(server: &Server, _: Anyone, req: RoomTokenRequest) -> Result<Json<Granted>> {
    let user = identify(server, &req.openid_token).await?;
    let identity = format!("{user}:{}", req.device_id);
    grant(server, &user, &req.room, ROOM_SLOT, &identity).await.map(Json)
}

/// `POST .../get_token`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4195))
pub async fn get_livekit_token(server: &Server, _: Anyone, req: SlotTokenRequest) -> Result<Json<Granted>> {
    let user = identify(server, &req.openid_token).await?;
    let member = req.member;
    if member.claimed_user_id != user {
        return Err(unauthorized());
    }
    let identity = hashed([user.as_str(), &member.claimed_device_id, &member.id])?;
    grant(server, &user, &req.room_id, &req.slot_id, &identity).await.map(Json)
}

async fn grant(server: &Server, user: &UserId, room: &OwnedRoomId, slot: &str, identity: &str) -> Result<Granted> {
    let config = server.config();
    let livekit = LiveKit::of(&config.matrix_rtc)
        .ok_or_else(|| Error::not_found("This server gives out no tokens for calls."))?;
    let is_member = {
        let read = server.store.read();
        match rooms::find(&read, room)? {
            Some(no) => members::is_joined(&read, no, user)?,
            None => false,
        }
    };
    if !is_member {
        return Err(Error::forbidden("You are not in the room of this call."));
    }
    let name = hashed([room.as_str(), slot])?;
    if user.server_name() == server.name() {
        livekit.create_room(&server.federation.outgoing, &name).await?;
    }
    Ok(Granted { url: livekit.url.as_str().to_owned(), jwt: livekit.token_to_join(&name, identity)? })
}

/// Whose OpenID token it is; the user's own server knows.
async fn identify(server: &Server, token: &OpenIdToken) -> Result<OwnedUserId> {
    if token.matrix_server_name == server.name() {
        let user = login_tokens::user_of(&server.store.read(), &OPENID_TOKENS, &token.access_token)?;
        return user.ok_or_else(unauthorized);
    }
    let request = get_openid_userinfo::v1::Request::new(token.access_token.clone());
    let answer = server.federation.send(&token.matrix_server_name, request).await.map_err(|error| {
        tracing::debug!("{} does not say whose an OpenID token is: {error}", token.matrix_server_name);
        unauthorized()
    })?;
    // A server speaks for its own users only.
    Some(answer.sub).filter(|user| user.server_name() == token.matrix_server_name).ok_or_else(unauthorized)
}

fn unauthorized() -> Error {
    let message = "The OpenID token does not prove who you are.";
    Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message)
}

/// The hash of a JSON array of texts, as names at the LiveKit server are made.
fn hashed<const N: usize>(texts: [&str; N]) -> Result<String> {
    let json = serde_json::to_vec(texts.as_slice())?;
    Ok(Base64::<Standard, _>::new(digest::digest(&digest::SHA256, &json).as_ref()).encode())
}
