//! Files: encrypted and plain, thumbnails, places reserved before the upload.

use matrix_sdk::{
    attachment::AttachmentConfig,
    media::{MediaFormat, MediaRequestParameters, MediaThumbnailSettings},
    ruma::events::{
        AnySyncMessageLikeEvent, AnySyncTimelineEvent,
        room::{MediaSource, message::MessageType},
    },
};

use crate::{
    common::TestServer,
    device::{Device, How, until},
    encryption::encrypted_dm,
};

however_it_syncs!(attachment_in_an_encrypted_room);

async fn attachment_in_an_encrypted_room(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    let picture = png(64, 48);
    let room = alice.joined(&dm).await;
    room.send_attachment("cat.png", &"image/png".parse().unwrap(), picture.clone(), AttachmentConfig::new())
        .await
        .unwrap();
    let source = until("the picture arrives", async || {
        bob.timeline(&dm).await.iter().find_map(|event| match event.raw().deserialize().ok()? {
            AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(message)) => {
                match &message.as_original()?.content.msgtype {
                    MessageType::Image(image) => Some(image.source.clone()),
                    _ => None,
                }
            }
            _ => None,
        })
    })
    .await;
    assert!(matches!(source, MediaSource::Encrypted(_)));
    let request = MediaRequestParameters { source, format: MediaFormat::File };
    assert_eq!(bob.media().get_media_content(&request, false).await.unwrap(), picture);
}

#[tokio::test]
async fn plain_files_and_thumbnails() {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", How::Classic).await;
    let bob = Device::register(&server, "bob", How::Classic).await;
    let picture = png(200, 100);
    let image = "image/png".parse().unwrap();

    let uploaded = alice.media().upload(&image, picture.clone(), None).await.unwrap().content_uri;
    let source = MediaSource::Plain(uploaded);
    let file = MediaRequestParameters { source: source.clone(), format: MediaFormat::File };
    assert_eq!(bob.media().get_media_content(&file, false).await.unwrap(), picture);
    let size = MediaThumbnailSettings::new(50u32.into(), 50u32.into());
    let thumbnail = MediaRequestParameters { source, format: MediaFormat::Thumbnail(size) };
    let thumbnail = bob.media().get_media_content(&thumbnail, false).await.unwrap();
    assert!(!thumbnail.is_empty() && thumbnail != picture);

    let reserved = alice.media().create_content_uri().await.unwrap();
    let uri = reserved.uri.clone();
    alice.media().upload_preallocated(reserved, &image, picture.clone()).await.unwrap();
    let file = MediaRequestParameters { source: MediaSource::Plain(uri), format: MediaFormat::File };
    assert_eq!(bob.media().get_media_content(&file, false).await.unwrap(), picture);
    assert!(u64::from(bob.load_or_fetch_max_upload_size().await.unwrap()) >= 1_000_000);
}

/// A picture of many colours.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}
