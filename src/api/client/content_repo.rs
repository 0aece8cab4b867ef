//! `content-repo.yaml`: uploads, and the deprecated downloads without authentication.
//!
//! The deprecated downloads are frozen, as the specification advises servers that want no open file hosting: they answer
//! `M_NOT_FOUND` for every file. Every upload here came with authenticated media already in force, and clients that do
//! not know it are too old for today's servers anywhere.
#![allow(deprecated)] // ruma marks what the specification deprecates

use http::{HeaderValue, Request, Response, header};
use ruma::{
    OwnedMxcUri, ServerName,
    api::{
        OutgoingResponseExt,
        client::media::{
            create_content, create_content_async, create_mxc_uri, get_content, get_content_as_filename,
            get_content_thumbnail, get_media_config, get_media_preview,
        },
    },
};

use super::authed_content_repo::max_upload_size;
use crate::{
    api::auth::{Anyone, User},
    error::{Error, Result},
    http::Body,
    media::{self, MediaContent},
    server::Server,
    store::trees,
};

/// `POST /_matrix/media/v3/upload`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload))
pub async fn upload_content(
    server: &Server,
    user: User,
    request: create_content::v3::Request,
    raw: Request<Body>,
) -> Result<Response<Body>> {
    let content = receive(server, raw.into_body(), request.content_type, request.filename).await?;
    let id = server.store.write(|tx| media::insert(tx, server.name(), Some(&user.id), content))?;
    let response = create_content::v3::Response::new(uri(server.name(), &id)?);
    let response = response.try_into_http_response::<Vec<u8>>().map_err(Error::internal)?;
    Ok(response.map(Body::full))
}

/// `POST /_matrix/media/v1/create`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create))
pub async fn create_content(
    server: &Server,
    user: User,
    _request: create_mxc_uri::v1::Request,
) -> Result<create_mxc_uri::v1::Response> {
    let (id, expires_ts) = server.store.write(|tx| media::reserve(tx, server.name(), &user.id))?;
    let mut response = create_mxc_uri::v1::Response::new(uri(server.name(), &id)?);
    response.unused_expires_at = ruma::UInt::new(expires_ts).map(ruma::MilliSecondsSinceUnixEpoch);
    Ok(response)
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid))
pub async fn upload_content_to_mxc(
    server: &Server,
    user: User,
    request: create_content_async::v3::Request,
    raw: Request<Body>,
) -> Result<Response<Body>> {
    let create_content_async::v3::Request { server_name, media_id, content_type, filename, .. } = request;
    media::check_reserved(&server.store.read(), &server_name, &media_id, &user.id)?;
    let content = receive(server, raw.into_body(), content_type, filename).await?;
    server.store.write(|tx| media::fill(tx, &server_name, &media_id, &user.id, content))?;
    let mut response = Response::new(Body::full("{}"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `GET /_matrix/media/v3/config`, deprecated
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3config))
pub async fn get_config(
    server: &Server,
    _user: User,
    _request: get_media_config::v3::Request,
) -> Result<get_media_config::v3::Response> {
    Ok(get_media_config::v3::Response::new(max_upload_size(server)))
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`, deprecated and frozen
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaid))
pub async fn get_content(
    server: &Server,
    _caller: Anyone,
    request: get_content::v3::Request,
) -> Result<get_content::v3::Response> {
    Err(frozen(server, &request.server_name, &request.media_id))
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`, deprecated and frozen
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaidfilename))
pub async fn get_content_override_name(
    server: &Server,
    _caller: Anyone,
    request: get_content_as_filename::v3::Request,
) -> Result<get_content_as_filename::v3::Response> {
    Err(frozen(server, &request.server_name, &request.media_id))
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`, deprecated and frozen
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3thumbnailservernamemediaid))
pub async fn get_content_thumbnail(
    server: &Server,
    _caller: Anyone,
    request: get_content_thumbnail::v3::Request,
) -> Result<get_content_thumbnail::v3::Response> {
    Err(frozen(server, &request.server_name, &request.media_id))
}

/// `GET /_matrix/media/v3/preview_url`, deprecated
/// ([spec](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3preview_url))
pub async fn get_url_preview(
    server: &Server,
    _user: User,
    request: get_media_preview::v3::Request,
) -> Result<get_media_preview::v3::Response> {
    let preview = server.previews.of(&server.media, server.name(), &request.url).await?;
    Ok(get_media_preview::v3::Response::from_serialize(&*preview)?)
}

/// The answer of the frozen endpoints: what was never uploaded cannot be frozen, so 504 `M_NOT_YET_UPLOADED` stays as it
/// was, but without waiting for an upload that would not be given out either.
fn frozen(server: &Server, name: &ServerName, id: &str) -> Error {
    match trees::MEDIA.get(&server.store.read(), (name, id)) {
        Ok(Some(file)) if file.content.is_none() && !media::has_expired(&file) => media::not_yet_uploaded(),
        Ok(_) => {
            Error::not_found("Files are given out at /_matrix/client/v1/media/download to those who are logged in.")
        }
        Err(error) => error,
    }
}

/// Writes a body to the disk as it comes.
async fn receive(
    server: &Server,
    body: Body,
    content_type: Option<String>,
    filename: Option<String>,
) -> Result<MediaContent> {
    let mut body = body.limited(max_upload_size(server).into())?;
    let mut file = server.media.create().await?;
    while let Some(bytes) = body.next().await? {
        file.write(&bytes).await?;
    }
    let (hash, size) = file.finish(&server.media).await?;
    Ok(MediaContent { hash, size, content_type, filename })
}

fn uri(server: &ServerName, id: &str) -> Result<OwnedMxcUri> {
    let uri = OwnedMxcUri::from(format!("mxc://{server}/{id}"));
    uri.validate().map_err(Error::internal)?;
    Ok(uri)
}
