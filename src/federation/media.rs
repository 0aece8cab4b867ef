//! Files of other servers
//! ([Content repository](https://spec.matrix.org/latest/server-server-api/#content-repository)).
//!
//! A file is fetched when the first user asks for it, kept like a file of our own, and goes when nobody asked for it for
//! long (`media/retention.rs`). Thumbnails are made here, of the whole file: it is mostly looked at next.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use ruma::{
    ServerName,
    api::{error::ErrorKind, federation::authenticated_media::get_content},
    http_headers::ContentDisposition,
};

use super::{Failure, Federation, Limits};
use crate::{
    error::{Error, Reason, Result},
    http::Body,
    media::{
        self, MediaContent,
        files::{Files, Incoming},
        multipart::{self, Piece, Reader},
    },
    outgoing::Reach,
    store::trees,
};

/// How long the server may take, beyond the time for which it waits for an upload, until the file begins to come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Federation {
    /// The file with the given media ID of another server: as it is kept, or fetched now. `wait` is for how long that
    /// server is to wait for the upload, `max` how many bytes are accepted.
    ///
    /// # Errors
    /// See [`Failure`]; when the disk or the database fails.
    pub async fn file(
        &self,
        files: &Files,
        server: &ServerName,
        id: &str,
        wait: Duration,
        max: u64,
    ) -> Result<MediaContent> {
        let key = (server.to_owned(), id.to_owned());
        let _turn = self.files.wait(&key).await;
        if let Some(file) = trees::MEDIA.get(&self.rooms.store.read(), (server, id))?
            && let Some(content) = file.content
        {
            return Ok(content);
        }
        // How large the file may be is checked here, since it has an error of its own.
        let limits = Limits { body: usize::MAX, timeout: wait + PATIENCE, redirects: 0 };
        let mut request = get_content::v1::Request::new(id.to_owned());
        request.timeout_ms = wait;
        let content = match self.send_streamed(server, request, limits).await {
            Ok(response) => self.receive(files, response, limits, max).await?,
            // Servers from before Matrix 1.11.
            Err(Failure::Status { kind: Some(ErrorKind::Unrecognized), .. }) => {
                let response = self.ask_unsigned(server, id, limits).await?;
                save(files, response, max).await?
            }
            Err(failure) => return Err(failure.into()),
        };
        self.rooms.store.write(|tx| media::keep(tx, server, id, content.clone()))?;
        Ok(content)
    }

    /// Reads a body of two parts, the second of which is the file or says where it is.
    async fn receive(&self, files: &Files, response: Response<Body>, limits: Limits, max: u64) -> Result<MediaContent> {
        let malformed = |why: &str| Error::from(Failure::Malformed(why.to_owned()));
        let content_type = text(response.headers(), header::CONTENT_TYPE);
        let boundary = content_type.as_deref().and_then(multipart::boundary);
        let mut reader = Reader::new(boundary.ok_or_else(|| malformed("it is no file in two parts"))?);
        let mut body = response.into_body().limited(max).map_err(interrupted)?;
        let mut file: Option<(HeaderMap, Incoming)> = None;
        while let Some(bytes) = body.next().await.map_err(interrupted)? {
            reader.push(&bytes);
            loop {
                match reader.piece().map_err(|why| malformed(&why))? {
                    Piece::None => break,
                    Piece::Headers(headers) => match text(&headers, header::LOCATION) {
                        Some(location) => return self.elsewhere(files, &location, limits, max).await,
                        None => file = Some((headers, files.create().await?)),
                    },
                    Piece::File(bytes) => match &mut file {
                        Some((_, file)) => file.write(&bytes).await?,
                        None => return Err(malformed("the file has no headers")),
                    },
                    Piece::End => {
                        let (headers, file) = file.ok_or_else(|| malformed("the file is missing"))?;
                        return finish(files, &headers, file).await;
                    }
                }
            }
        }
        Err(malformed("the file is cut off"))
    }

    /// Fetches a file from where its server says that it is: a network of caches, mostly.
    async fn elsewhere(&self, files: &Files, location: &str, limits: Limits, max: u64) -> Result<MediaContent> {
        let limits = Limits { redirects: 5, ..limits };
        let request = Request::get(location).body(Bytes::new());
        let request = request.map_err(|error| Failure::Malformed(error.to_string()))?;
        save(files, self.outgoing.stream(Reach::Public, request, limits).await?, max).await
    }

    /// Asks a server for a file as clients did before there was authentication.
    async fn ask_unsigned(&self, server: &ServerName, id: &str, limits: Limits) -> Result<Response<Body>> {
        let path = format!("/_matrix/media/v3/download/{server}/{id}?allow_remote=false");
        let request = Request::get(path).body(Bytes::new()).map_err(|error| Failure::Malformed(error.to_string()))?;
        Ok(self.ask(server, request, limits).await?)
    }
}

/// Saves a body that is the file.
async fn save(files: &Files, response: Response<Body>, max: u64) -> Result<MediaContent> {
    if response.status() != StatusCode::OK {
        let (kind, message) = (None, String::new());
        return Err(Failure::Status { status: response.status(), kind, message }.into());
    }
    let (parts, body) = response.into_parts();
    let mut body = body.limited(max).map_err(interrupted)?;
    let mut file = files.create().await?;
    while let Some(bytes) = body.next().await.map_err(interrupted)? {
        file.write(&bytes).await?;
    }
    finish(files, &parts.headers, file).await
}

/// Why a file does not come, for whoever waits for it here. The specification has 502 `M_TOO_LARGE` for one that is too
/// large.
fn interrupted(error: Error) -> Error {
    match error.reason() {
        Reason::Matrix { kind: ErrorKind::TooLarge, .. } => {
            let message = "The file is larger than this server takes from others.";
            Error::new(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, message)
        }
        _ => Failure::Unreachable("the file stopped half-way".to_owned()).into(),
    }
}

async fn finish(files: &Files, headers: &HeaderMap, file: Incoming) -> Result<MediaContent> {
    let disposition = headers.get(header::CONTENT_DISPOSITION).map(|value| value.as_bytes());
    let disposition = disposition.and_then(|value| ContentDisposition::try_from(value).ok());
    let (hash, size) = file.finish(files).await?;
    let content_type = text(headers, header::CONTENT_TYPE);
    Ok(MediaContent { hash, size, content_type, filename: disposition.and_then(|disposition| disposition.filename) })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
