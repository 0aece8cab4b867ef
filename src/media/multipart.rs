//! `multipart/mixed` as servers exchange files in it
//! ([Content repository](https://spec.matrix.org/latest/server-server-api/#content-repository)): a part with metadata, which
//! nobody has a use for yet, then the file, or where it is.
//!
//! Both directions are streams: no file is ever held in memory.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The most that the parts' headers and the metadata may take.
const MAX_HEAD: usize = 64 * 1024;

/// What stands before a file's bytes in an answer, and after them.
pub fn around(boundary: &str, content_type: &str, content_disposition: &str) -> (Bytes, Bytes) {
    let before = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\
         Content-Disposition: {content_disposition}\r\n\r\n"
    );
    (before.into(), format!("\r\n--{boundary}--\r\n").into())
}

/// The boundary that a `Content-Type` names, if it is one of `multipart/mixed`.
pub fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    let parameter = |parameter: &'static str| {
        parameters.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.eq_ignore_ascii_case(parameter).then(|| value.trim_matches('"'))
        })
    };
    let found = essence.trim().eq_ignore_ascii_case("multipart/mixed").then(|| parameter("boundary"))??;
    (1..=70).contains(&found.len()).then_some(found)
}

/// Reads a body piece by piece.
pub struct Reader {
    /// `\r\n--` and the boundary.
    delimiter: Vec<u8>,
    held: BytesMut,
    state: State,
}

enum State {
    /// So many delimiters are still to come before the file's headers.
    Before(u8),
    Headers,
    File,
    End,
}

/// What a piece of the body brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing yet.
    None,
    /// The headers of the file's part.
    Headers(HeaderMap),
    /// Bytes of the file.
    File(Bytes),
    /// The file is whole.
    End,
}

impl Reader {
    /// Reads a body with this boundary.
    pub fn new(boundary: &str) -> Self {
        // The first delimiter may lack its line break: it is put before everything.
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            held: BytesMut::from(&b"\r\n"[..]),
            state: State::Before(2),
        }
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// What can be told now; to be called until it gives [`Piece::None`] or [`Piece::End`].
    ///
    /// # Errors
    /// When this is no such body.
    pub fn piece(&mut self) -> Result<Piece, String> {
        loop {
            match self.state {
                State::End => return Ok(Piece::End),
                State::Before(left) => {
                    let Some(at) = find(&self.held, &self.delimiter) else { return self.more() };
                    self.held.advance(at + self.delimiter.len());
                    self.state = if left > 1 { State::Before(left - 1) } else { State::Headers };
                }
                State::Headers => {
                    if self.held.starts_with(b"--") {
                        return Err("the file is missing".to_owned());
                    }
                    // The line break of the delimiter is the one before the first header.
                    let Some(at) = find(&self.held, b"\r\n\r\n") else { return self.more() };
                    let head = self.held.split_to(at);
                    self.held.advance(4);
                    self.state = State::File;
                    return Ok(Piece::Headers(headers(&head)));
                }
                State::File => {
                    if let Some(at) = find(&self.held, &self.delimiter) {
                        self.state = State::End;
                        return Ok(if at == 0 { Piece::End } else { Piece::File(self.held.split_to(at).freeze()) });
                    }
                    // The delimiter may have begun.
                    let sure = self.held.len().saturating_sub(self.delimiter.len());
                    return Ok(if sure == 0 { Piece::None } else { Piece::File(self.held.split_to(sure).freeze()) });
                }
            }
        }
    }

    fn more(&self) -> Result<Piece, String> {
        if self.held.len() > MAX_HEAD { Err("its headers are too long".to_owned()) } else { Ok(Piece::None) }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The headers that mean something here.
fn headers(head: &[u8]) -> HeaderMap {
    let mut found = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
        let (name, value) = (HeaderName::from_bytes(name.trim_ascii()), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value)
            && [header::CONTENT_TYPE, header::CONTENT_DISPOSITION, header::LOCATION].contains(&name)
        {
            found.insert(name, value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers and file of a body that comes in pieces of `size` bytes.
    fn read(body: &[u8], boundary: &str, size: usize) -> Result<(HeaderMap, Vec<u8>, bool), String> {
        let mut reader = Reader::new(boundary);
        let (mut headers, mut file) = (HeaderMap::new(), Vec::new());
        for piece in body.chunks(size) {
            reader.push(piece);
            loop {
                match reader.piece()? {
                    Piece::None => break,
                    Piece::Headers(found) => headers = found,
                    Piece::File(bytes) => file.extend_from_slice(&bytes),
                    Piece::End => return Ok((headers, file, true)),
                }
            }
        }
        Ok((headers, file, false))
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size() {
        for file in [&b""[..], b"a file", b"\r\n--almost\r\n--", b"\r\n\r\n"] {
            let (before, after) = around("b0undary", "image/png", "inline; filename=a.png");
            let body = [&before[..], file, &after[..]].concat();
            for size in 1..body.len() + 1 {
                let (headers, found, whole) = read(&body, "b0undary", size).unwrap();
                assert_eq!((&found[..], whole), (file, true), "in pieces of {size}");
                assert_eq!(headers[header::CONTENT_TYPE], "image/png");
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        let (before, _) = around("b0undary", "image/png", "inline");
        assert!(!read(&[&before[..], b"half a fi"].concat(), "b0undary", 7).unwrap().2);
        assert!(read(b"--b0undary\r\n\r\n{}\r\n--b0undary--", "b0undary", 7).is_err());
        assert!(read(&[b'x'; MAX_HEAD + 100], "b0undary", 1000).is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_comes_is_a_fault(
            pieces in proptest::collection::vec("(\\r\\n--b0undary(--)?|\\r\\n\\r\\n|[a-c:; \\r\\n-]{0,9})", 0..20),
            size in 1_usize..40,
        ) {
            let body = pieces.concat();
            if let Ok((_, file, _)) = read(body.as_bytes(), "b0undary", size) {
                proptest::prop_assert!(file.len() <= body.len());
            }
        }
    }

    #[test]
    fn boundaries_are_found() {
        assert_eq!(boundary("multipart/mixed; boundary=abc"), Some("abc"));
        assert_eq!(boundary("Multipart/Mixed; charset=utf-8; Boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("text/plain; boundary=abc"), None);
        assert_eq!(boundary("multipart/mixed"), None);
    }
}
