//! `authed-content-repo.yaml`: downloads for those who are logged in.
//!
//! Files go out as streams, whole or the range that a player asks for. What may be shown in the page and what must be
//! saved is decided in `media/disposition.rs`.

use std::{io, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use ruma::{
    OwnedServerName, UInt,
    api::{
        client::authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config, get_media_preview,
        },
        error::ErrorKind,
    },
    media::Method,
};

use crate::{
    api::auth::User,
    clock,
    error::{Error, Result},
    http::Body,
    media::{
        self, MediaContent,
        disposition::{CONTENT_SECURITY_POLICY, Part, content_disposition, content_type, range},
        retention,
        thumbnails::{self, Size},
    },
    server::Server,
    store::{records::Thumbnail, trees},
};

/// How long a request may wait for a file that is not uploaded yet, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Bytes of a file of another server that are accepted, if users of this one may not send larger ones.
const MAX_REMOTE: u64 = 100 * 1024 * 1024;

/// How often it looks whether the file has come.
const WAIT_STEP: Duration = Duration::from_millis(250);

/// `GET /_matrix/client/v1/media/config`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediaconfig))
pub async fn get_config_authed(
    server: &Server,
    _user: User,
    _request: get_media_config::v1::Request,
) -> Result<get_media_config::v1::Response> {
    Ok(get_media_config::v1::Response::new(max_upload_size(server)))
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid))
pub async fn get_content_authed(
    server: &Server,
    _user: User,
    request: get_content::v1::Request,
    raw: Request<Body>,
) -> Result<Response<Body>> {
    let wanted = Wanted { server: request.server_name, id: request.media_id, wait: request.timeout_ms };
    download(server, &wanted, None, raw.headers()).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaidfilename))
pub async fn get_content_override_name_authed(
    server: &Server,
    _user: User,
    request: get_content_as_filename::v1::Request,
    raw: Request<Body>,
) -> Result<Response<Body>> {
    let wanted = Wanted { server: request.server_name, id: request.media_id, wait: request.timeout_ms };
    download(server, &wanted, Some(request.filename), raw.headers()).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid))
pub async fn get_content_thumbnail_authed(
    server: &Server,
    _user: User,
    request: get_content_thumbnail::v1::Request,
    raw: Request<Body>,
) -> Result<Response<Body>> {
    let wanted = Wanted { server: request.server_name, id: request.media_id, wait: request.timeout_ms };
    let shape = Shape {
        width: request.width,
        height: request.height,
        method: request.method,
        animated: request.animated == Some(true),
    };
    thumbnail(server, &wanted, &shape, raw.headers()).await
}

/// `GET /_matrix/client/v1/media/preview_url`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url))
pub async fn get_url_preview_authed(
    server: &Server,
    _user: User,
    request: get_media_preview::v1::Request,
) -> Result<get_media_preview::v1::Response> {
    let preview = server.previews.of(&server.media, server.name(), &request.url).await?;
    Ok(get_media_preview::v1::Response::from_serialize(&*preview)?)
}

/// The largest upload, in bytes.
pub(super) fn max_upload_size(server: &Server) -> UInt {
    UInt::new_saturating(server.config().max_upload_size())
}

/// The file that a request is about.
pub(in crate::api) struct Wanted {
    /// The server of the URI.
    pub(in crate::api) server: OwnedServerName,
    /// Its media ID.
    pub(in crate::api) id: String,
    /// How long to wait for its upload.
    pub(in crate::api) wait: Duration,
}

/// The thumbnail that a request is about.
pub(in crate::api) struct Shape {
    /// Pixels.
    pub(in crate::api) width: UInt,
    /// Pixels.
    pub(in crate::api) height: UInt,
    /// Crop or scale.
    pub(in crate::api) method: Option<Method>,
    /// Whether it should move.
    pub(in crate::api) animated: bool,
}

/// The file, under its own name or `filename`.
pub(super) async fn download(
    server: &Server,
    wanted: &Wanted,
    filename: Option<String>,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let mut content = find(server, wanted).await?;
    if filename.is_some() {
        content.filename = filename;
    }
    respond(server, &content, headers).await
}

/// A thumbnail of the file.
pub(super) async fn thumbnail(
    server: &Server,
    wanted: &Wanted,
    shape: &Shape,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let content = find_thumbnail(server, wanted, shape).await?;
    respond(server, &content, headers).await
}

/// A thumbnail of the file, made now if it has not been asked for before; the file itself if that is no larger.
pub(in crate::api) async fn find_thumbnail(server: &Server, wanted: &Wanted, shape: &Shape) -> Result<MediaContent> {
    let content = find(server, wanted).await?;
    let size = Size::for_request(shape.width.into(), shape.height.into(), shape.method.as_ref());
    let name = size.name(shape.animated);
    let known = trees::THUMBNAILS.get(&server.store.read(), (&content.hash, &name))?;
    let thumbnail = match known {
        Some(thumbnail) => thumbnail,
        None => make_thumbnail(server, &content, size, shape.animated).await?,
    };
    match thumbnail {
        Thumbnail::Made(made) => Ok(made),
        Thumbnail::Original => Ok(content),
        Thumbnail::Impossible => Err(Error::bad_request(
            ErrorKind::Unknown,
            "No thumbnail can be made of this file: it is no image that this server reads, or too large.",
        )),
    }
}

/// What is stored under the URI, once it is uploaded; fetched now if it is another server's. What is blocked is not
/// found.
pub(in crate::api) async fn find(server: &Server, wanted: &Wanted) -> Result<MediaContent> {
    let content = find_stored(server, wanted).await?;
    media::check_shown(&server.store.read(), &content.hash)?;
    Ok(content)
}

async fn find_stored(server: &Server, wanted: &Wanted) -> Result<MediaContent> {
    let deadline = clock::instant() + wanted.wait.min(MAX_WAIT);
    loop {
        let file = trees::MEDIA.get(&server.store.read(), (&wanted.server, &wanted.id))?;
        if file.is_none() && wanted.server != server.name() {
            let (wait, max) = (wanted.wait.min(MAX_WAIT), server.config().max_upload_size().max(MAX_REMOTE));
            return server.federation.file(&server.media, &wanted.server, &wanted.id, wait, max).await;
        }
        let file = file.filter(|file| !media::has_expired(file));
        let file = file.ok_or_else(|| Error::not_found("This server does not have the file."))?;
        if let Some(content) = file.content {
            return Ok(content);
        }
        if clock::instant() >= deadline || *server.stopping.borrow() {
            return Err(media::not_yet_uploaded());
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
}

async fn make_thumbnail(server: &Server, content: &MediaContent, size: Size, animated: bool) -> Result<Thumbnail> {
    let path = server.media.path(&content.hash)?;
    let permit = server.image_work.acquire().await.map_err(Error::internal)?;
    let made = tokio::task::spawn_blocking(move || thumbnails::make(|| thumbnails::open_file(&path), size, animated));
    let made = made.await.map_err(Error::internal)??;
    drop(permit);
    let thumbnail = match made {
        thumbnails::Thumbnail::Original => Thumbnail::Original,
        thumbnails::Thumbnail::Impossible(why) => {
            tracing::debug!("no thumbnail of {}: {why}", content.hash);
            Thumbnail::Impossible
        }
        thumbnails::Thumbnail::Made(bytes, content_type) => {
            let mut file = server.media.create().await?;
            file.write(&bytes).await?;
            let (hash, size) = file.finish(&server.media).await?;
            let content_type = Some(content_type.to_owned());
            Thumbnail::Made(MediaContent { hash, size, content_type, filename: Some("thumbnail".to_owned()) })
        }
    };
    server.store.write(|tx| {
        trees::THUMBNAILS.put(tx, (&content.hash, size.name(animated)), &thumbnail);
        Ok(())
    })?;
    Ok(thumbnail)
}

/// Streams the bytes, or the range of them that the request asks for.
async fn respond(server: &Server, content: &MediaContent, headers: &HeaderMap) -> Result<Response<Body>> {
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let part = range(asked, content.size);
    let (start, end) = match part {
        Part::Whole => (0, content.size),
        Part::Range(start, end) => (start, end),
        Part::Beyond => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{}", content.size))?);
            return Ok(response);
        }
    };
    retention::note_access(&server.store, &content.hash)?;
    let bytes = server.media.read(&content.hash, start, end).await.map_err(|error| {
        Error::internal(format_args!("the file {} of the media folder cannot be read: {error}", content.hash))
    })?;
    let mut response = Response::new(Body::stream(bytes, Some(end - start)));
    let media_type = content_type(content.content_type.as_deref());
    let disposition = content_disposition(media_type, content.filename.as_deref());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(media_type)?);
    headers.insert(header::CONTENT_DISPOSITION, value(&disposition)?);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What a URI names never changes.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    if part != Part::Whole {
        headers.insert(header::CONTENT_RANGE, value(&format!("bytes {start}-{}/{}", end - 1, content.size))?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|error| Error::internal(io::Error::other(error)))
}
