//! Previews of the web pages that users post.
//!
//! A page is fetched at most once an hour, whoever asks; of its pictures the first is kept as a file of this server,
//! which goes like those of other servers go when nobody looks at it any more (`media/retention.rs`).
//!
//! Invariants: nothing is fetched in private networks (`outgoing`), nor of a domain that the administrator does not want,
//! through redirects neither; pages, pictures and what is remembered are bounded. Deliberately absent: running scripts, and
//! languages: a page is asked for as if nobody had asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use image::ImageReader;
use quick_cache::{Weighter, sync::Cache};
use ruma::{ServerName, api::error::ErrorKind};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::{
    clock,
    config::{self, Current, UrlPreview},
    error::{Error, Result},
    http::Body,
    media::{self, MediaContent, files::Files, open_graph},
    outgoing::{self, Limits, Outgoing, Reach, Turns},
    store::Store,
};

/// Bytes of previews kept, and for how long.
const CACHE_BYTES: u64 = 1024 * 1024;
const FRESH: Duration = Duration::from_secs(60 * 60);

/// How many pages are fetched at once.
const AT_ONCE: usize = 4;

/// Bytes of a page that are read: what describes it stands at its beginning.
const MAX_PAGE: usize = 512 * 1024;

/// How long a page or a picture may take to begin to come, and how often it may be elsewhere.
const TIMEOUT: Duration = Duration::from_secs(15);
const REDIRECTS: usize = 5;

/// The longest address that is asked for.
const MAX_URL: usize = 2048;

/// Makes previews.
pub struct Previews {
    config: Current,
    outgoing: Arc<Outgoing>,
    store: Arc<Store>,
    known: Cache<String, Known, Weight>,
    asking: Turns<String>,
    at_once: Semaphore,
}

#[derive(Clone)]
struct Known {
    preview: Arc<Map<String, Value>>,
    until: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<String, Known> for Weight {
    fn weight(&self, url: &String, known: &Known) -> u64 {
        let size = |(key, value): (&String, &Value)| 64 + key.len() + value.as_str().map_or(0, str::len);
        (128 + url.len() + known.preview.iter().map(size).sum::<usize>()) as u64
    }
}

impl Previews {
    /// Previews as `config` wants them.
    pub fn new(config: Current, outgoing: Arc<Outgoing>, store: Arc<Store>) -> Self {
        Self {
            config,
            outgoing,
            store,
            known: Cache::with_weighter(500, CACHE_BYTES, Weight),
            asking: Turns::default(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    /// The preview of the page at `url`: OpenGraph properties, its picture as a file of `server`. Empty where previews are
    /// switched off, or not wanted of the page's domain.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for an address that is none, 504 `M_UNKNOWN` if nothing comes from there.
    pub async fn of(&self, files: &Files, server: &ServerName, url: &str) -> Result<Arc<Map<String, Value>>> {
        let uri = page_address(url)?;
        let config = self.config.get();
        let options = &config.url_preview;
        if !options.enabled || !wants(options, &uri) {
            return Ok(Arc::default());
        }
        let key = uri.to_string();
        let fresh = || self.known.get(&key).filter(|known| known.until > clock::instant());
        if let Some(known) = fresh() {
            return Ok(known.preview);
        }
        let _turn = self.asking.wait(&key).await;
        if let Some(known) = fresh() {
            return Ok(known.preview);
        }
        let permit = self.at_once.acquire().await.map_err(Error::internal)?;
        let preview = Arc::new(self.fetch(files, server, &uri).await?);
        drop(permit);
        self.known.insert(key, Known { preview: preview.clone(), until: clock::instant() + FRESH });
        Ok(preview)
    }

    async fn fetch(&self, files: &Files, server: &ServerName, uri: &Uri) -> Result<Map<String, Value>> {
        let (uri, response) = self.get(uri, "text/html,application/xhtml+xml,image/*;q=0.9").await?;
        let kind = content_type(response.headers());
        if is_picture(&kind) {
            return self.picture(files, server, response).await;
        }
        if !response.status().is_success() || !(kind.contains("html") || kind.is_empty()) {
            return Ok(Map::new());
        }
        let page = beginning(response.into_body()).await?;
        let mut found = open_graph::of_page(&decoded(&page, &kind));
        let picture = found.remove("og:image").or_else(|| found.remove("og:image:url"));
        // What the page says of its picture is said of the picture itself instead.
        found.retain(|name, _| !name.starts_with("og:image"));
        let mut preview: Map<String, Value> = found.into_iter().map(|(name, value)| (name, value.into())).collect();
        if let Some(picture) = picture.and_then(|reference| outgoing::join(&uri, &reference)) {
            match self.picture_at(files, server, &picture).await {
                Ok(properties) => preview.extend(properties),
                Err(error) => tracing::debug!(%error, "the picture of a page cannot be had"),
            }
        }
        Ok(preview)
    }

    async fn picture_at(&self, files: &Files, server: &ServerName, uri: &Uri) -> Result<Map<String, Value>> {
        let (_, response) = self.get(uri, "image/*").await?;
        if response.status().is_success() && is_picture(&content_type(response.headers())) {
            self.picture(files, server, response).await
        } else {
            Ok(Map::new())
        }
    }

    /// Keeps a picture that comes; gives what a preview says of it.
    async fn picture(
        &self,
        files: &Files,
        server: &ServerName,
        response: Response<Body>,
    ) -> Result<Map<String, Value>> {
        let kind = content_type(response.headers());
        let mut body = response.into_body();
        let mut file = files.create().await?;
        while let Some(bytes) = body.next().await? {
            file.write(&bytes).await?;
        }
        let (hash, size) = file.finish(files).await?;
        let path = files.path(&hash)?;
        let dimensions = move || ImageReader::open(path).ok()?.with_guessed_format().ok()?.into_dimensions().ok();
        let dimensions = tokio::task::spawn_blocking(dimensions).await.map_err(Error::internal)?;
        let content = MediaContent { hash, size, content_type: Some(kind.clone()), filename: None };
        let id = self.store.write(|tx| media::insert(tx, server, None, content))?;
        let mut properties = json!({
            "og:image": format!("mxc://{server}/{id}"), "og:image:type": kind, "matrix:image:size": size,
        });
        if let Some((width, height)) = dimensions {
            properties["og:image:width"] = width.into();
            properties["og:image:height"] = height.into();
        }
        Ok(match properties {
            Value::Object(properties) => properties,
            _ => Map::new(),
        })
    }

    /// The answer at an address, through redirects, and the address that it is from.
    async fn get(&self, uri: &Uri, accept: &'static str) -> Result<(Uri, Response<Body>)> {
        let config = self.config.get();
        let options = &config.url_preview;
        let body = usize::try_from(options.max_size.bytes()).unwrap_or(usize::MAX);
        let limits = Limits { body, timeout: TIMEOUT, redirects: 0 };
        let mut uri = uri.clone();
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Bytes::new());
            *request.uri_mut() = uri.clone();
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
            let response = self.outgoing.stream(Reach::Public, request, limits).await?;
            let moved = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = moved.and_then(|location| location.to_str().ok()) else {
                return Ok((uri, response));
            };
            let next = outgoing::join(&uri, location).filter(|next| wants(options, next));
            uri = next.ok_or_else(|| unreachable("it leads where nothing is fetched"))?;
        }
        Err(unreachable("it leads on and on"))
    }
}

/// Whether the administrator wants previews of the domain.
fn wants(options: &UrlPreview, uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_end_matches('.');
    let among = |domains: &[String]| {
        domains.iter().any(|domain| config::matches(domain, host) || config::matches(&format!("*.{domain}"), host))
    };
    (options.allow_domains.is_empty() || among(&options.allow_domains)) && !among(&options.deny_domains)
}

fn page_address(url: &str) -> Result<Uri> {
    let wrong = || Error::invalid_param("The address of a page begins with http:// or https://.");
    let url = url.trim().split('#').next().unwrap_or_default();
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let is_page = matches!(uri.scheme_str(), Some("http" | "https")) && url.len() <= MAX_URL;
    // A user name in an address is there to make it look like another's.
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_page && !has_user { Ok(uri) } else { Err(wrong()) }
}

fn unreachable(why: &str) -> Error {
    Error::new(http::StatusCode::BAD_GATEWAY, ErrorKind::Unknown, format!("The page cannot be fetched: {why}."))
}

fn content_type(headers: &HeaderMap) -> String {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether a media type is that of a picture that browsers show without running anything.
fn is_picture(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim();
    matches!(essence, "image/jpeg" | "image/png" | "image/gif" | "image/webp" | "image/avif" | "image/apng")
}

/// The first [`MAX_PAGE`] bytes of a page.
async fn beginning(mut body: Body) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    while let Some(bytes) = body.next().await? {
        page.extend_from_slice(&bytes);
        if page.len() >= MAX_PAGE {
            page.truncate(MAX_PAGE);
            break;
        }
    }
    Ok(page)
}

/// A page as text: UTF-8, unless it says that it is Latin-1.
fn decoded(page: &[u8], kind: &str) -> String {
    let is_latin = ["iso-8859-1", "windows-1252", "latin1"].iter().any(|name| kind.contains(name));
    if is_latin {
        page.iter().map(|byte| char::from(*byte)).collect()
    } else {
        String::from_utf8_lossy(page).into_owned()
    }
}
