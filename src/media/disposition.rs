//! What browsers are told about a file, so that none runs what a user uploaded.
//!
//! Spec: client-server API, "Serving inline content" and "Security considerations" of the content repository.

/// The media types that may be shown in the page ("inline").
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The policy that keeps whatever is shown from doing anything.
pub const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                                           style-src 'unsafe-inline'; object-src 'self';";

/// The `Content-Type` to serve: what the uploader said, if it can stand in a header.
pub fn content_type(given: Option<&str>) -> &str {
    match given {
        Some(given) if !given.is_empty() && given.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => given,
        _ => "application/octet-stream",
    }
}

/// The `Content-Disposition` to serve: inline for harmless types only, with the file's name in the form of RFC 6266.
pub fn content_disposition(content_type: &str, filename: Option<&str>) -> String {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = if INLINE.contains(&essence.as_str()) { "inline" } else { "attachment" };
    match filename {
        None | Some("") => kind.to_owned(),
        Some(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte)) => {
            format!("{kind}; filename={name}")
        }
        Some(name) if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
            format!("{kind}; filename=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
        }
        Some(name) => {
            let encoded: String = name
                .bytes()
                .map(|byte| match byte {
                    byte if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) => {
                        char::from(byte).to_string()
                    }
                    byte => format!("%{byte:02X}"),
                })
                .collect();
            format!("{kind}; filename*=utf-8''{encoded}")
        }
    }
}

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The bytes `start..end`, not empty.
    Range(u64, u64),
    /// What lies beyond its end (416).
    Beyond,
}

/// The part of a file that a `Range` header asks for.
///
/// Only one range is understood, which is what players send; for several the whole file may be served (RFC 9110, 14.2).
pub fn range(header: Option<&str>, size: u64) -> Part {
    let Some(wanted) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = wanted.split_once('-').filter(|_| !wanted.contains(',')) else { return Part::Whole };
    let (start, end) = match (first.trim().parse::<u64>().ok(), last.trim().parse::<u64>().ok()) {
        (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Some(start), None) if last.trim().is_empty() => (start, size),
        (None, Some(count)) if first.trim().is_empty() => (size.saturating_sub(count), size),
        _ => return Part::Whole,
    };
    if start < end { Part::Range(start, end) } else { Part::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_types_are_shown_inline() {
        assert_eq!(content_disposition("image/png", None), "inline");
        assert_eq!(content_disposition("text/plain; charset=utf-8", Some("a.txt")), "inline; filename=a.txt");
        assert_eq!(content_disposition("text/html", Some("my \"page\"")), "attachment; filename=\"my \\\"page\\\"\"");
        assert_eq!(
            content_disposition("image/svg+xml", Some("Bär\r\n")),
            "attachment; filename*=utf-8''B%C3%A4r%0D%0A"
        );
    }

    #[test]
    fn ranges() {
        assert_eq!(range(None, 10), Part::Whole);
        assert_eq!(range(Some("bytes=0-3"), 10), Part::Range(0, 4));
        assert_eq!(range(Some("bytes=4-"), 10), Part::Range(4, 10));
        assert_eq!(range(Some("bytes=-4"), 10), Part::Range(6, 10));
        assert_eq!(range(Some("bytes=4-99"), 10), Part::Range(4, 10));
        assert_eq!(range(Some("bytes=0-1,4-5"), 10), Part::Whole);
        assert_eq!(range(Some("bytes=5-3"), 10), Part::Whole);
        assert_eq!(range(Some("bytes=10-"), 10), Part::Beyond);
        assert_eq!(range(Some("pages=1-2"), 10), Part::Whole);
    }
}
