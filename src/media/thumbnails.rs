//! Thumbnails of images.
//!
//! Whatever size is asked for, one of the few sizes that the specification recommends is made and kept, so that nobody can
//! fill the disk with sizes. Decoding is bounded in pixels before it starts, runs off the async threads, and one at a
//! time: a phone's picture of 50 megapixels takes 200 MB while it is scaled down.

use std::io::{BufRead, BufReader, Cursor, Seek};

use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
};
use ruma::media::Method;

/// The sizes that are made. Spec: client-server API, "Thumbnails".
const SIZES: [Size; 5] = [
    Size { width: 32, height: 32, crop: true },
    Size { width: 96, height: 96, crop: true },
    Size { width: 320, height: 240, crop: false },
    Size { width: 640, height: 480, crop: false },
    Size { width: 800, height: 600, crop: false },
];

/// Images with more pixels than this get no thumbnail.
const MAX_PIXELS: u64 = 50_000_000;

/// Bytes that a decoder may allocate.
const MAX_ALLOCATION: u64 = 256 * 1024 * 1024;

/// Frames of an animation that are scaled; longer ones are cut there.
const MAX_FRAMES: usize = 120;

/// Pixels of all frames of an animation together.
const MAX_ANIMATION_PIXELS: u64 = 200_000_000;

/// Up to so many bytes, a thumbnail of a picture that was stored without loss is stored so too: it may be a drawing, or
/// text. A photograph in any of the larger sizes has more.
const MAX_LOSSLESS: usize = 64 * 1024;

/// One of the sizes that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Whether the image fills the size and what stands over is cut, or fits inside.
    pub crop: bool,
}

impl Size {
    /// The smallest size that is made and not smaller than what is asked for, or the largest of all.
    pub fn for_request(width: u64, height: u64, method: Option<&Method>) -> Self {
        let fits = |size: &Size| u64::from(size.width) >= width && u64::from(size.height) >= height;
        let crop = method == Some(&Method::Crop);
        let found = SIZES.into_iter().find(|size| fits(size));
        let [.., largest] = SIZES;
        Size { crop, ..found.unwrap_or(largest) }
    }

    /// How the size is told apart in the database.
    pub fn name(self, animated: bool) -> String {
        let method = if self.crop { "crop" } else { "scale" };
        let animated = if animated { "-animated" } else { "" };
        format!("{}x{}-{method}{animated}", self.width, self.height)
    }
}

/// What became of an image.
#[derive(Debug)]
pub enum Thumbnail {
    /// A smaller image and its media type.
    Made(Vec<u8>, &'static str),
    /// The image is no larger than the size: serve it itself.
    Original,
    /// It is no image that we read, or too large.
    Impossible(String),
}

/// Makes a thumbnail of the image that `open` reads.
///
/// # Errors
/// When it cannot be opened.
pub fn make<R: BufRead + Seek>(
    open: impl Fn() -> std::io::Result<R>,
    size: Size,
    animated: bool,
) -> std::io::Result<Thumbnail> {
    let reader = ImageReader::new(open()?).with_guessed_format()?;
    let format = reader.format();
    if animated
        && let Some(frames) = animation_frames(format, &open)?
        && let Some(bytes) = scale_animation(frames, size)
    {
        return Ok(Thumbnail::Made(bytes, "image/gif"));
    }
    Ok(still(reader, size).unwrap_or_else(|error| Thumbnail::Impossible(error.to_string())))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOCATION);
    limits
}

/// A decoder that keeps to the limits, also where a frame claims to be larger than the picture.
fn limited<D: ImageDecoder>(mut decoder: D) -> image::ImageResult<D> {
    decoder.set_limits(limits())?;
    Ok(decoder)
}

fn too_large() -> image::ImageError {
    image::ImageError::Limits(image::error::LimitError::from_kind(image::error::LimitErrorKind::DimensionError))
}

fn still<R: BufRead + Seek>(mut reader: ImageReader<R>, size: Size) -> image::ImageResult<Thumbnail> {
    reader.limits(limits());
    let is_lossless = matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Gif));
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(too_large());
    }
    let orientation = decoder.orientation()?;
    if width <= size.width && height <= size.height && orientation == image::metadata::Orientation::NoTransforms {
        return Ok(Thumbnail::Original);
    }
    let mut image = DynamicImage::from_decoder(decoder)?;
    // Cameras store the picture as the sensor saw it, with a note how it was held.
    image.apply_orientation(orientation);
    let image = scale(&image, size);
    let mut bytes = Vec::new();
    let has_alpha = image.color().has_alpha();
    if has_alpha || is_lossless {
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
        if has_alpha || bytes.len() <= MAX_LOSSLESS {
            return Ok(Thumbnail::Made(bytes, "image/png"));
        }
        bytes.clear();
    }
    image.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 80))?;
    Ok(Thumbnail::Made(bytes, "image/jpeg"))
}

fn scale(image: &DynamicImage, size: Size) -> DynamicImage {
    let (width, height) = (size.width.min(image.width()), size.height.min(image.height()));
    if size.crop {
        image.resize_to_fill(width, height, FilterType::Triangle)
    } else if image.width() <= size.width && image.height() <= size.height {
        image.clone()
    } else {
        image.thumbnail(size.width, size.height)
    }
}

/// The frames of an animated image; `None` for formats without animation and for images with one frame.
fn animation_frames<'a, R: BufRead + Seek + 'a>(
    format: Option<ImageFormat>,
    open: &impl Fn() -> std::io::Result<R>,
) -> std::io::Result<Option<image::Frames<'a>>> {
    let small = |dimensions: (u32, u32)| u64::from(dimensions.0) * u64::from(dimensions.1) <= MAX_PIXELS;
    Ok(match format {
        Some(ImageFormat::Gif) => GifDecoder::new(open()?)
            .and_then(limited)
            .ok()
            .filter(|decoder| small(decoder.dimensions()))
            .map(AnimationDecoder::into_frames),
        Some(ImageFormat::WebP) => WebPDecoder::new(open()?)
            .and_then(limited)
            .ok()
            .filter(|decoder| decoder.has_animation() && small(decoder.dimensions()))
            .map(AnimationDecoder::into_frames),
        _ => None,
    })
}

fn scale_animation(frames: image::Frames<'_>, size: Size) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut count, mut pixels) = (0, 0);
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 20);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        for frame in frames.take(MAX_FRAMES) {
            let frame = frame.ok()?;
            pixels += u64::from(frame.buffer().width()) * u64::from(frame.buffer().height());
            if pixels > MAX_ANIMATION_PIXELS {
                return None;
            }
            let delay = frame.delay();
            let scaled = scale(&DynamicImage::ImageRgba8(frame.into_buffer()), size).to_rgba8();
            encoder.encode_frame(Frame::from_parts(scaled, 0, 0, delay)).ok()?;
            count += 1;
        }
    }
    (count > 1).then_some(bytes)
}

/// Opens a file for [`make`].
///
/// # Errors
/// When it is missing.
pub fn open_file(path: &std::path::Path) -> std::io::Result<BufReader<std::fs::File>> {
    std::fs::File::open(path).map(BufReader::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_within_the_limits() {
        let bytes: &[u8] = include_bytes!("../../fuzz/seeds/picture/gif-frame-larger-than-the-picture");
        let frames = animation_frames(Some(ImageFormat::Gif), &|| Ok(Cursor::new(bytes))).unwrap();
        assert!(matches!(frames.unwrap().next(), Some(Err(image::ImageError::Limits(_)))));
    }
}
