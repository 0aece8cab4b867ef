//! What stands in the mails, as text and as HTML of the same words.

use crate::http::html::escape;

/// A mail to a person: paragraphs, with a link between them if there is something to do.
pub struct Letter {
    /// The subject.
    pub subject: String,
    before: Vec<String>,
    /// What the link says, and where it leads.
    link: Option<(&'static str, String)>,
    after: Vec<String>,
    /// Whether the link ends such mails; then mail programs show a button for it.
    unsubscribes: bool,
}

const NOT_YOU: &str = "If it was not you, do nothing: then nothing happens.";

impl Letter {
    /// Asks to confirm an address that somebody registers an account with.
    pub fn register(server: &str, link: String) -> Self {
        Self::confirm(
            format!("Your registration at {server}"),
            format!("Somebody, probably you, is registering an account at {server} with this e-mail address."),
            ("Confirm the address", link),
        )
    }

    /// Asks to confirm an address that somebody adds to their account.
    pub fn add(server: &str, link: String) -> Self {
        Self::confirm(
            format!("Your e-mail address at {server}"),
            format!("Somebody, probably you, wants to add this e-mail address to their account at {server}."),
            ("Confirm the address", link),
        )
    }

    /// Asks whether somebody may set a new password for `user`.
    pub fn reset_password(server: &str, user: &str, link: String) -> Self {
        Self::confirm(
            format!("A new password at {server}"),
            format!("Somebody, probably you, wants to set a new password for your account {user} at {server}."),
            ("Allow a new password", link),
        )
    }

    fn confirm(subject: String, what: String, link: (&'static str, String)) -> Self {
        let after = vec!["The link works for two hours.".to_owned(), NOT_YOU.to_owned()];
        Self { subject, before: vec![what], link: Some(link), after, unsubscribes: false }
    }

    /// Says that an address that somebody registers with, or adds, has an account already.
    pub fn known(server: &str, user: &str) -> Self {
        let before = vec![
            format!("Somebody, probably you, wants to use this e-mail address for an account at {server}."),
            format!("There is one with it already: {user}. An address can belong to one account only."),
            "If you do not know its password any more, choose in your client that you forgot it.".to_owned(),
        ];
        Self::notice(format!("Your account at {server}"), before)
    }

    /// Says that no account has an address for which somebody wants a new password.
    pub fn unknown(server: &str) -> Self {
        let before = vec![
            format!("Somebody, probably you, wants to set a new password at {server} with this e-mail address."),
            "No account there has this address. If you have an account, try another address of yours, or ask the \
             administrator."
                .to_owned(),
        ];
        Self::notice(format!("A new password at {server}"), before)
    }

    fn notice(subject: String, before: Vec<String>) -> Self {
        Self { subject, before, link: None, after: vec![NOT_YOU.to_owned()], unsubscribes: false }
    }

    /// Tells `user` what is unread, with a paragraph for each room, and a link that ends such mails.
    pub fn digest(server: &str, user: &str, rooms: Vec<String>, link: String) -> Self {
        let mut before = vec![format!("There are unread messages for {user}.")];
        before.extend(rooms);
        Self {
            subject: format!("Unread messages at {server}"),
            before,
            link: Some(("No more mails about messages", link)),
            after: Vec::new(),
            unsubscribes: true,
        }
    }

    /// The link that ends such mails, if there is one.
    pub(super) fn unsubscribe_link(&self) -> Option<&str> {
        self.link.as_ref().filter(|_| self.unsubscribes).map(|(_, url)| url.as_str())
    }

    pub(super) fn text(&self) -> String {
        let link = self.link.as_ref().map(|(label, url)| format!("{label}:\n{url}"));
        let paragraphs: Vec<_> = self.before.iter().chain(&link).chain(&self.after).map(String::as_str).collect();
        format!("{}\n", paragraphs.join("\n\n"))
    }

    pub(super) fn html(&self) -> String {
        let paragraph = |text: &String| format!("<p>{}</p>", escape(text).replace('\n', "<br>"));
        let link = self.link.as_ref().map(|(label, url)| {
            let style = "display:inline-block;padding:.6em 1.2em;background:#0a5fb4;color:#fff;text-decoration:none";
            let url = escape(url);
            format!("<p><a href=\"{url}\" style=\"{style}\">{label}</a></p><p style=\"font-size:small\">{url}</p>")
        });
        let before: String = self.before.iter().map(paragraph).collect();
        let after: String = self.after.iter().map(paragraph).collect();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\
             <body style=\"font-family:sans-serif\">{before}{}{after}</body></html>",
            escape(&self.subject),
            link.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_the_same_words_and_the_link() {
        let letter = Letter::reset_password("a&b.org", "@<x>:a&b.org", "https://a.org/?sid=1&token=2".to_owned());
        let (text, html) = (letter.text(), letter.html());
        assert!(text.contains("@<x>:a&b.org") && html.contains("@&lt;x&gt;:a&amp;b.org"));
        assert!(text.contains("\nhttps://a.org/?sid=1&token=2\n"));
        assert!(html.contains("<a href=\"https://a.org/?sid=1&amp;token=2\""));
        assert!(text.contains(NOT_YOU) && html.contains(NOT_YOU));
        assert!(!Letter::unknown("a.org").html().contains("<a "));
    }
}
