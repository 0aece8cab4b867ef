//! A device: the client, logged in, and the task in which it synchronises.

use std::{fmt::Debug, future::Future, ops::Deref, sync::Mutex, time::Duration};

use futures_util::StreamExt;
use matrix_sdk::{
    Client, Room, RoomState, SlidingSync, SlidingSyncList, SlidingSyncMode,
    config::{RequestConfig, SyncSettings},
    deserialized_responses::TimelineEvent,
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    ruma::{
        OwnedEventId, OwnedRoomId, RoomId, UserId,
        api::{
            client::{
                account::register,
                sync::sync_events::v5::request,
                uiaa::{AuthData, MatrixUserIdentifier, Password, RegistrationToken, UserIdentifier},
            },
            error::ErrorKind,
        },
        events::{StateEventType, room::message::RoomMessageEventContent},
    },
    sliding_sync::VersionBuilder,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::common::{TOKEN, TestServer};

/// How long [`until`] waits; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a device synchronises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `GET /sync`.
    Classic,
    /// One sliding sync: a list that grows until it holds every room, and all extensions.
    Sliding,
    /// The connections of Element X: `room-list` without and `encryption` with keys and to-device messages.
    ElementX,
}

/// One device of one user, synchronising in the background until it is dropped or stopped.
pub struct Device {
    client: Client,
    how: How,
    syncs: Mutex<Vec<JoinHandle<()>>>,
}

impl Deref for Device {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.take_syncs().iter().for_each(JoinHandle::abort);
    }
}

impl Device {
    /// Registers `name` and synchronises.
    pub async fn register(server: &TestServer, name: &str, how: How) -> Self {
        let client = new_client(&server.anyone().base).await;
        let mut request = register::v3::Request::new();
        request.username = Some(name.to_owned());
        request.password = Some(password(name));
        let refusal = client.matrix_auth().register(request.clone()).await.unwrap_err();
        let mut token = RegistrationToken::new(TOKEN.to_owned());
        token.session = refusal.as_uiaa_response().expect("a challenge").session.clone();
        request.auth = Some(AuthData::RegistrationToken(token));
        client.matrix_auth().register(request).await.unwrap();
        Self::started(client, how).await
    }

    /// Logs another device of `name` in and synchronises.
    pub async fn login(server: &TestServer, name: &str, how: How) -> Self {
        Self::login_at(&server.anyone().base, name, how).await
    }

    /// Does the same at the server with the URL `base`.
    pub async fn login_at(base: &str, name: &str, how: How) -> Self {
        let client = new_client(base).await;
        client.matrix_auth().login_username(name, &password(name)).send().await.unwrap();
        Self::started(client, how).await
    }

    async fn started(client: Client, how: How) -> Self {
        client.event_cache().subscribe().unwrap();
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let device = Self { client, how, syncs: Mutex::default() };
        device.resume().await;
        device
    }

    /// Stops to synchronise, as an application in the background does.
    pub async fn pause(&self) {
        for sync in self.take_syncs() {
            sync.abort();
            let _ = sync.await;
        }
    }

    fn take_syncs(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.syncs.lock().unwrap())
    }

    /// Synchronises again, from where it stopped.
    pub async fn resume(&self) {
        let client = self.client.clone();
        let syncs = match self.how {
            How::Classic => vec![tokio::spawn(classic(client))],
            How::Sliding => {
                let connection = client.sliding_sync("all").unwrap().with_all_extensions();
                let connection = connection.share_pos().add_list(growing_list("all", 20));
                vec![tokio::spawn(sliding(connection.build().await.unwrap()))]
            }
            How::ElementX => {
                let list = room_list(&client).await;
                vec![tokio::spawn(sliding(list)), tokio::spawn(sliding(encryption_sync(&client).await))]
            }
        };
        *self.syncs.lock().unwrap() = syncs;
    }

    /// The ID of the user.
    pub fn me(&self) -> &UserId {
        self.client.user_id().unwrap()
    }

    /// The room, once the client knows it as joined.
    pub async fn joined(&self, room: &RoomId) -> Room {
        self.room_in(room, RoomState::Joined).await
    }

    /// The room, once the client knows it in a state.
    pub async fn room_in(&self, room: &RoomId, state: RoomState) -> Room {
        until(&format!("{} has {room} as {state:?}", self.me()), async || {
            self.get_room(room).filter(|room| room.state() == state)
        })
        .await
    }

    /// Waits for an invitation and accepts it.
    pub async fn accept(&self, room: &RoomId) -> Room {
        self.room_in(room, RoomState::Invited).await.join().await.unwrap();
        self.joined(room).await
    }

    /// Sends a text; gives the event's ID.
    pub async fn say(&self, room: &RoomId, text: &str) -> OwnedEventId {
        let room = self.joined(room).await;
        room.send(RoomMessageEventContent::text_plain(text)).await.unwrap().response.event_id
    }

    /// What the client holds of a room's timeline, in order.
    pub async fn timeline(&self, room: &RoomId) -> Vec<TimelineEvent> {
        let Some(room) = self.get_room(room) else { return Vec::new() };
        let (cache, _guards) = room.event_cache().await.unwrap();
        cache.events().await.unwrap()
    }

    /// The texts among them; what could not be decrypted has none.
    pub async fn texts(&self, room: &RoomId) -> Vec<String> {
        self.timeline(room).await.iter().filter_map(text).collect()
    }

    /// Waits until the client shows a text.
    pub async fn reads(&self, room: &RoomId, wanted: &str) {
        until(&format!("{} reads {wanted:?}", self.me()), async || {
            self.texts(room).await.iter().any(|text| text == wanted).then_some(())
        })
        .await;
    }

    /// The password as an answer to a challenge.
    pub fn proof(&self, session: Option<String>) -> AuthData {
        let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(self.me().to_string()));
        let mut proof = Password::new(user, password(self.me().localpart()));
        proof.session = session;
        AuthData::Password(proof)
    }
}

/// The password of a user.
pub fn password(name: &str) -> String {
    format!("secret-{name}")
}

/// The body of an event, if it is in the clear or has been decrypted.
pub fn text(event: &TimelineEvent) -> Option<String> {
    let content: Value = event.raw().get_field("content").ok()??;
    Some(content.get("body")?.as_str()?.to_owned())
}

/// Waits until `probe` finds what it looks for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until `probe` gives `wanted`.
pub async fn until_equal<T: PartialEq + Debug, F: Future<Output = T>>(
    what: &str,
    wanted: T,
    mut probe: impl FnMut() -> F,
) {
    let mut last = None;
    let equal = async {
        loop {
            let value = probe().await;
            if value == wanted {
                return;
            }
            last = Some(value);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, equal).await.is_err() {
        panic!("{what}: wanted {wanted:?}, last {last:?}");
    }
}

/// A client of the server with the URL `base`, not logged in, set up as Element X sets its own up. `RUST_LOG` shows what clients do.
pub async fn new_client(base: &str) -> Client {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    Client::builder()
        .homeserver_url(base)
        .sliding_sync_version_builder(VersionBuilder::DiscoverNative)
        .request_config(RequestConfig::new().disable_retry().timeout(PATIENCE))
        .with_encryption_settings(EncryptionSettings {
            auto_enable_cross_signing: true,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
            auto_enable_backups: true,
        })
        .build()
        .await
        .unwrap()
}

async fn classic(client: Client) {
    loop {
        client.sync_once(SyncSettings::new().timeout(Duration::from_secs(30))).await.unwrap();
    }
}

/// Runs a connection; one that the server has forgotten starts anew.
pub async fn sliding(connection: SlidingSync) {
    loop {
        let mut updates = Box::pin(connection.sync());
        while let Some(update) = updates.next().await {
            match update {
                Ok(_) => {}
                Err(error) if error.client_api_error_kind() == Some(&ErrorKind::UnknownPos) => {}
                Err(error) => panic!("sliding sync: {error:?}"),
            }
        }
    }
}

/// A list of all rooms whose window grows by `step`.
pub fn growing_list(name: &str, step: u32) -> matrix_sdk::SlidingSyncListBuilder {
    SlidingSyncList::builder(name)
        .sync_mode(SlidingSyncMode::new_growing(step))
        .timeline_limit(20)
        .required_state(required_state())
}

/// The state that Element X asks for in its list.
pub fn required_state() -> Vec<(StateEventType, String)> {
    [
        (StateEventType::RoomName, ""),
        (StateEventType::RoomEncryption, ""),
        (StateEventType::RoomMember, "$LAZY"),
        (StateEventType::RoomMember, "$ME"),
        (StateEventType::RoomTopic, ""),
        (StateEventType::RoomAvatar, ""),
        (StateEventType::RoomCanonicalAlias, ""),
        (StateEventType::RoomPowerLevels, ""),
        (StateEventType::CallMember, "*"),
        (StateEventType::RoomJoinRules, ""),
        (StateEventType::RoomTombstone, ""),
        (StateEventType::RoomCreate, ""),
        (StateEventType::RoomHistoryVisibility, ""),
        (StateEventType::MemberHints, ""),
        (StateEventType::SpaceParent, "*"),
        (StateEventType::SpaceChild, "*"),
        (StateEventType::BeaconInfo, "*"),
    ]
    .map(|(kind, key)| (kind, key.to_owned()))
    .into()
}

/// The connection of Element X for rooms, with a growing list from the start.
async fn room_list(client: &Client) -> SlidingSync {
    client
        .sliding_sync("room-list")
        .unwrap()
        .with_account_data_extension(enabled_account_data())
        .with_receipt_extension(enabled_receipts())
        .with_typing_extension(enabled_typing())
        .share_pos()
        .add_list(growing_list("all_rooms", 100))
        .build()
        .await
        .unwrap()
}

/// The connection of Element X for encryption: extensions without any room.
pub async fn encryption_sync(client: &Client) -> SlidingSync {
    let mut to_device = request::ToDevice::default();
    to_device.enabled = Some(true);
    let mut keys = request::E2EE::default();
    keys.enabled = Some(true);
    let connection = client.sliding_sync("encryption").unwrap();
    // While rooms and keys come on connections of their own, a client sends its part of a verification in a room when
    // this connection turns next: so it must turn more often than every half a minute.
    let connection = connection.poll_timeout(Duration::from_millis(500));
    connection.with_to_device_extension(to_device).with_e2ee_extension(keys).build().await.unwrap()
}

/// The account data extension as Element X asks for it.
pub fn enabled_account_data() -> request::AccountData {
    let mut account_data = request::AccountData::default();
    account_data.enabled = Some(true);
    account_data
}

/// The receipts extension as Element X asks for it.
pub fn enabled_receipts() -> request::Receipts {
    let mut receipts = request::Receipts::default();
    receipts.enabled = Some(true);
    receipts.rooms = Some(vec![request::ExtensionRoomConfig::AllSubscribed]);
    receipts
}

/// The typing extension as Element X asks for it.
pub fn enabled_typing() -> request::Typing {
    let mut typing = request::Typing::default();
    typing.enabled = Some(true);
    typing
}

/// An unencrypted room of `host` that `guests` have joined.
pub async fn room_with(host: &Device, name: &str, guests: &[&Device]) -> OwnedRoomId {
    use matrix_sdk::ruma::api::client::room::create_room::v3::Request;

    let mut request = Request::new();
    request.name = (!name.is_empty()).then(|| name.to_owned());
    request.invite = guests.iter().map(|guest| guest.me().to_owned()).collect();
    let id = host.create_room(request).await.unwrap().room_id().to_owned();
    host.joined(&id).await;
    for guest in guests {
        guest.accept(&id).await;
    }
    id
}
