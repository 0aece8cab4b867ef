//! A mail server that keeps what it is given: RFC 5321 as far as a client needs it, with STARTTLS, TLS and passwords.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use ruma::serde::{Base64, base64::Standard};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::net::TestNet;

/// A mail that arrived.
#[derive(Clone, Debug)]
pub struct Mail {
    pub sender: String,
    pub recipients: Vec<String>,
    /// Headers and body as they came.
    pub raw: String,
}

/// How a client must connect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Security {
    StartTls,
    Tls,
    None,
}

/// A running mail server, until it is dropped.
pub struct MailServer {
    pub port: u16,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

struct Shared {
    security: Security,
    acceptor: TlsAcceptor,
    /// Name and password that a client must show.
    account: Option<(String, String)>,
    mails: Mutex<Vec<Mail>>,
    refuses: Mutex<bool>,
}

impl MailServer {
    /// A mail server at `localhost` with a certificate of the net's authority.
    pub async fn start(net: &TestNet, security: Security, account: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            security,
            acceptor: net.acceptor("localhost"),
            account: account.map(|(name, password)| (name.to_owned(), password.to_owned())),
            mails: Mutex::default(),
            refuses: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { port, shared, serving }
    }

    /// The mails that have arrived since this was last asked.
    pub fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut self.shared.mails.lock())
    }

    /// The one mail that has arrived since then.
    pub fn take_one(&self) -> Mail {
        let mut mails = self.take();
        assert_eq!(mails.len(), 1, "{mails:?}");
        mails.remove(0)
    }

    /// Whether it takes no mail from now on.
    pub fn refuse(&self, refuses: bool) {
        *self.shared.refuses.lock() = refuses;
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Mail {
    /// The text of the part of this type, decoded.
    pub fn part(&self, content_type: &str) -> String {
        let after =
            self.raw.split(&format!("Content-Type: {content_type}")).nth(1).unwrap_or_else(|| panic!("{self:?}"));
        let (headers, body) = after.split_once("\r\n\r\n").unwrap();
        let body = body.split("\r\n--").next().unwrap();
        if headers.contains("quoted-printable") { unquoted(body) } else { body.replace("\r\n", "\n") }
    }

    /// The one link in the text.
    pub fn link(&self) -> String {
        let text = self.part("text/plain");
        let mut links = text.lines().filter(|line| line.starts_with("http"));
        let link = links.next().unwrap_or_else(|| panic!("no link in {text}")).to_owned();
        assert!(links.next().is_none(), "{text}");
        link
    }

    pub fn has_link(&self) -> bool {
        self.part("text/plain").contains("http")
    }
}

/// Decodes quoted-printable text (RFC 2045, section 6.7).
fn unquoted(text: &str) -> String {
    let text = text.replace("=\r\n", "").replace("\r\n", "\n");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'=', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = connection(stream, &shared).await;
        });
    }
}

async fn connection(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    if shared.security == Security::Tls {
        return session(shared.acceptor.accept(stream).await?, shared, true, true).await.map(drop);
    }
    if let Some(stream) = session(stream, shared, true, false).await? {
        session(shared.acceptor.accept(stream).await?, shared, false, true).await?;
    }
    Ok(())
}

/// Answers commands; gives the stream back when TLS is to begin on it.
async fn session<S>(stream: S, shared: &Shared, greets: bool, secure: bool) -> io::Result<Option<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let (mut authenticated, mut mail) = (shared.account.is_none(), Mail::empty());
    if greets {
        stream.write_all(b"220 localhost test\r\n").await?;
    }
    loop {
        let Some(line) = read_line(&mut stream).await? else { return Ok(None) };
        let upper = line.to_ascii_uppercase();
        let refuses = *shared.refuses.lock();
        let answer = match upper.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => {
                let mut answer = "250-localhost\r\n".to_owned();
                if shared.security == Security::StartTls && !secure {
                    answer.push_str("250-STARTTLS\r\n");
                }
                if shared.account.is_some() {
                    answer.push_str("250-AUTH PLAIN\r\n");
                }
                answer + "250 8BITMIME"
            }
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await?;
                return Ok(Some(stream.into_inner()));
            }
            "AUTH" => {
                authenticated = shared.admits(line.rsplit(' ').next().unwrap_or_default());
                if authenticated { "235 welcome".to_owned() } else { "535 wrong".to_owned() }
            }
            "MAIL" if !authenticated || (shared.security == Security::StartTls && !secure) => "530 no".to_owned(),
            "MAIL" => {
                mail = Mail { sender: address(&line), ..Mail::empty() };
                "250 ok".to_owned()
            }
            "RCPT" if refuses => "550 nobody here".to_owned(),
            "RCPT" => {
                mail.recipients.push(address(&line));
                "250 ok".to_owned()
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                while let Some(line) = read_line(&mut stream).await? {
                    if line == "." {
                        break;
                    }
                    mail.raw.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.raw.push_str("\r\n");
                }
                shared.mails.lock().push(std::mem::replace(&mut mail, Mail::empty()));
                "250 taken".to_owned()
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(None);
            }
            _ => "250 ok".to_owned(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

impl Mail {
    fn empty() -> Self {
        Self { sender: String::new(), recipients: Vec::new(), raw: String::new() }
    }
}

impl Shared {
    /// Whether the words of `AUTH PLAIN` are those of the account.
    fn admits(&self, words: &str) -> bool {
        let words = Base64::<Standard>::parse(words).map(Base64::into_inner).unwrap_or_default();
        let expected = self.account.as_ref().map(|(name, password)| format!("\0{name}\0{password}").into_bytes());
        expected.is_some_and(|expected| words == expected)
    }
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).await?;
    Ok((length > 0).then(|| line.trim_end_matches("\r\n").to_owned()))
}

/// What stands between `<` and `>`.
fn address(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}
