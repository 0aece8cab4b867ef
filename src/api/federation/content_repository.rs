//! The files of this server's users, for other servers.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Response, header};
use ruma::api::federation::authenticated_media::{get_content as content, get_content_thumbnail as thumbnail};

use crate::{
    api::{
        auth::Origin,
        client::authed_content_repo::{Shape, Wanted, find, find_thumbnail},
    },
    clock,
    error::{Error, Result},
    http::Body,
    media::{
        MediaContent,
        disposition::{content_disposition, content_type},
        multipart,
    },
    server::Server,
};

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediadownloadmediaid))
pub async fn get_content(
    server: &Server,
    _origin: Origin,
    req: content::v1::Request,
    _raw: Request<Body>,
) -> Result<Response<Body>> {
    let content = find(server, &own(server, req.media_id, req.timeout_ms)).await?;
    respond(server, &content).await
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediathumbnailmediaid))
pub async fn get_content_thumbnail(
    server: &Server,
    _origin: Origin,
    req: thumbnail::v1::Request,
    _raw: Request<Body>,
) -> Result<Response<Body>> {
    let shape =
        Shape { width: req.width, height: req.height, method: req.method, animated: req.animated == Some(true) };
    let content = find_thumbnail(server, &own(server, req.media_id, req.timeout_ms), &shape).await?;
    respond(server, &content).await
}

fn own(server: &Server, id: String, wait: Duration) -> Wanted {
    Wanted { server: server.name().to_owned(), id, wait }
}

/// Streams the file as the second part of a `multipart/mixed` body.
async fn respond(server: &Server, content: &MediaContent) -> Result<Response<Body>> {
    let file = server.media.read(&content.hash, 0, content.size).await.map_err(|error| {
        Error::internal(format_args!("the file {} of the media folder cannot be read: {error}", content.hash))
    })?;
    let boundary = clock::random_string(30)?;
    let media_type = content_type(content.content_type.as_deref());
    let disposition = content_disposition(media_type, content.filename.as_deref());
    let (before, after) = multipart::around(&boundary, media_type, &disposition);
    let length = before.len() as u64 + content.size + after.len() as u64;
    let one = |bytes| stream::iter([Ok::<_, io::Error>(bytes)]);
    let mut response = Response::new(Body::stream(one(before).chain(file).chain(one(after)), Some(length)));
    let kind = HeaderValue::try_from(format!("multipart/mixed; boundary={boundary}")).map_err(Error::internal)?;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
