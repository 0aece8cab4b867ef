//! Media and where their bytes lie.

use serde::{Deserialize, Serialize};

use crate::record;

/// A file that clients know by its `mxc://` URI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaFile {
    /// Who uploaded it; nobody for a file of another server, or a picture of a web page.
    pub user: Option<ruma::OwnedUserId>,
    /// When the URI was made, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// The bytes; none while the URI waits for its upload.
    pub content: Option<MediaContent>,
    /// Until when an upload is accepted for a URI without content, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub expires_ts: Option<u64>,
    /// Whether it stays until it is deleted by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}
record!(MediaFile, 1);

/// The bytes of a file or of a thumbnail, and what is said about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaContent {
    /// SHA-256 of the bytes in hexadecimal: their name on the disk.
    pub hash: String,
    /// Their number.
    pub size: u64,
    /// The media type that the uploader gave.
    #[serde(default)]
    pub content_type: Option<String>,
    /// The file name that the uploader gave.
    #[serde(default)]
    pub filename: Option<String>,
}
record!(MediaContent, 1);

/// What became of a file when a thumbnail of some size was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thumbnail {
    /// A smaller image.
    Made(MediaContent),
    /// The file is no larger itself.
    Original,
    /// None can be made of it.
    Impossible,
}
record!(Thumbnail, 1);
