//! Bytes on the disk, named by their SHA-256.
//!
//! `<root>/ab/cd/<the other 60 digits>` for finished files, `<root>/incoming/<random>` for those being written. A file is
//! renamed into place after it is synced, and the folder is synced after that, so a name always has all its bytes.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use ring::digest::{Context, SHA256};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use crate::{
    clock,
    error::{Error, Result},
};

/// Bytes read and held at a time while a file goes out.
const CHUNK: usize = 64 * 1024;

/// Bytes written between two syncs, so that the last one has little left to do and memory little to hold.
const SYNC_EVERY: u64 = 16 * 1024 * 1024;

/// The folder of all media.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

/// A file that is being written. Dropped before [`finish`](Incoming::finish), it is removed.
pub struct Incoming {
    path: PathBuf,
    file: File,
    digest: Context,
    size: u64,
    unsynced: u64,
    finished: bool,
}

impl Files {
    /// Media below `root`, which is made if missing. What uploads were cut off by the last stop is removed.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: PathBuf) -> Result<Self> {
        let incoming = root.join("incoming");
        match std::fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        std::fs::create_dir_all(&incoming)?;
        Ok(Self { root })
    }

    /// Media below `root` as they lie there; nothing is made or removed.
    pub fn existing(root: PathBuf) -> Self {
        Self { root }
    }

    /// Starts a new file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn create(&self) -> Result<Incoming> {
        let path = self.root.join("incoming").join(clock::random_string(24)?);
        let file = File::create_new(&path).await?;
        Ok(Incoming { path, file, digest: Context::new(&SHA256), size: 0, unsynced: 0, finished: false })
    }

    /// Where the file with this hash lies.
    ///
    /// # Errors
    /// When `hash` is no SHA-256 in hexadecimal, as it is in every sound row.
    pub fn path(&self, hash: &str) -> Result<PathBuf> {
        let sound = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (hash.get(..2), hash.get(2..4), hash.get(4..)) {
            (Some(first), Some(second), Some(rest)) if sound => Ok(self.root.join(first).join(second).join(rest)),
            _ => Err(Error::internal("a media row holds a damaged hash")),
        }
    }

    /// The hashes of all finished files.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn hashes(&self) -> io::Result<Vec<String>> {
        let mut hashes = Vec::new();
        for first in subfolders(&self.root)? {
            for second in subfolders(&self.root.join(&first))? {
                for file in std::fs::read_dir(self.root.join(&first).join(&second))? {
                    let rest = file?.file_name();
                    hashes.extend(rest.to_str().map(|rest| format!("{first}{second}{rest}")));
                }
            }
        }
        Ok(hashes)
    }

    /// The bytes `start..end` of a file, as a stream that holds one chunk at a time.
    ///
    /// # Errors
    /// When the file is missing or cannot be read.
    pub async fn read(
        &self,
        hash: &str,
        start: u64,
        end: u64,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let mut file = File::open(self.path(hash)?).await?;
        file.seek(SeekFrom::Start(start)).await?;
        let left = end.saturating_sub(start);
        Ok(stream::try_unfold((file, left), |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut bytes = BytesMut::with_capacity(wanted);
            let mut limited = (&mut file).take(wanted as u64);
            while bytes.len() < wanted {
                if limited.read_buf(&mut bytes).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let left = left - wanted as u64;
            Ok(Some((bytes.freeze(), (file, left))))
        }))
    }
}

/// The folders in which files lie by the beginning of their hash.
fn subfolders(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.len() == 2));
    }
    Ok(names)
}

impl Incoming {
    /// Appends bytes.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        self.file.write_all(bytes).await?;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data().await?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Puts the file in its place; gives its hash and size.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn finish(mut self, files: &Files) -> Result<(String, u64)> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let hash: String = self.digest.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = files.path(&hash)?;
        let folder = path.parent().unwrap_or(&files.root).to_owned();
        fs::create_dir_all(&folder).await?;
        fs::rename(&self.path, &path).await?;
        self.finished = true;
        sync_folders(&folder, &files.root).await?;
        Ok((hash, self.size))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!("an upload that was cut off could not be removed: {error}");
        }
    }
}

/// Makes the new name durable, and those of folders that may be new themselves.
async fn sync_folders(folder: &Path, root: &Path) -> Result<()> {
    for folder in folder.ancestors() {
        File::open(folder).await?.sync_all().await?;
        if folder == root {
            break;
        }
    }
    Ok(())
}
