//! Media: rows that name bytes, and the files that hold them. Files that nothing names are no fault: a crash between the
//! rename of a file and the commit of its row leaves one.

use super::Checker;
use crate::{
    error::Result,
    media::{MediaContent, files::Files},
    store::{
        records::Thumbnail,
        trees::{MEDIA, MEDIA_PENDING, THUMBNAILS},
    },
};

pub(super) fn check(checker: &mut Checker<'_>, files: &Files) -> Result<()> {
    checker.each(MEDIA, |checker, (server, id), file| {
        match &file.content {
            Some(content) => check_file(checker, files, content, &format!("mxc://{server}/{id}")),
            None => {
                let waits = match &file.user {
                    Some(user) => MEDIA_PENDING.get(checker.read, (user, &id))? == file.expires_ts,
                    None => false,
                };
                checker.expect(waits, format_args!("mxc://{server}/{id} has no content, but waits for none"));
            }
        }
        Ok(())
    })?;
    checker.each(MEDIA_PENDING, |checker, (user, id), _| {
        let file = MEDIA.get(checker.read, (&*checker.server_name, &id))?;
        let waits = file.is_some_and(|file| file.content.is_none() && file.user == Some(user.clone()));
        checker.expect(waits, format_args!("the media URI {id} of {user} waits for content that it has"));
        Ok(())
    })?;
    checker.each(THUMBNAILS, |checker, (original, size), thumbnail| {
        if let Thumbnail::Made(content) = thumbnail {
            check_file(checker, files, &content, &format!("the thumbnail {size} of {original}"));
        }
        Ok(())
    })
}

fn check_file(checker: &mut Checker<'_>, files: &Files, content: &MediaContent, name: &str) {
    let size = files.path(&content.hash).ok().and_then(|path| std::fs::metadata(path).ok()).map(|file| file.len());
    checker.expect(size == Some(content.size), format_args!("the file of {name} is missing or of another size"));
}
