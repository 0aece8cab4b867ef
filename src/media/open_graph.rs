//! What a web page says of itself: its [OpenGraph](https://ogp.me/) properties, and what stands in for them.

use std::collections::BTreeMap;

use html5gum::{DefaultEmitter, HtmlString, Token, Tokenizer};

/// How many properties are kept, and how many characters of each.
const MAX_PROPERTIES: usize = 50;
const MAX_VALUE: usize = 1000;

/// The properties of a page, by their names (`og:title`). Without OpenGraph, the page's title and description are what
/// the page has for everybody. The first of several values counts; the names of pictures are as the page has them.
pub fn of_page(html: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut title = None;
    let mut in_title = false;
    let mut emitter = DefaultEmitter::<()>::default();
    // So that what stands in scripts and styles is not taken for tags.
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => match &**tag.name {
                b"title" => in_title = title.is_none(),
                b"meta" => {
                    let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| text(value));
                    let name = attribute(b"property").or_else(|| attribute(b"name"));
                    if let (Some(name), Some(value)) = (name, attribute(b"content")) {
                        meta(&mut found, &name, value);
                    }
                }
                // What describes a page stands in its head.
                b"body" => break,
                _ => {}
            },
            Token::EndTag(_) => in_title = false,
            Token::String(string) if in_title => title = Some(text(&string)),
            _ => {}
        }
    }
    if let Some(title) = title.filter(|title| !title.is_empty()) {
        found.entry("og:title".to_owned()).or_insert(title);
    }
    // Stand-ins, once it is clear that they are needed.
    for (name, stand_in) in [("og:description", "description"), ("og:image", "twitter:image")] {
        if let Some(value) = found.remove(stand_in) {
            found.entry(name.to_owned()).or_insert(value);
        }
    }
    found
}

fn meta(found: &mut BTreeMap<String, String>, name: &str, value: String) {
    let name = name.to_ascii_lowercase();
    let wanted = name.starts_with("og:") && name.len() <= 100 || name == "description" || name == "twitter:image";
    if wanted && !value.is_empty() && found.len() < MAX_PROPERTIES {
        found.entry(name).or_insert(value);
    }
}

/// Text on one line, and not too much of it.
fn text(bytes: &HtmlString) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_VALUE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(html: &str) -> Vec<(String, String)> {
        of_page(html).into_iter().collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn open_graph_goes_before_what_stands_in_for_it() {
        let page = r#"<!doctype html><html><head><title> A
            page </title><meta name="description" content="plain">
            <meta property="og:title" content="Tea &amp; biscuits"><meta property='og:title' content=second>
            <META PROPERTY="OG:Image" CONTENT="/a.png"></head><body><meta property="og:type" content="late"></body>"#;
        let wanted = [pair("og:description", "plain"), pair("og:image", "/a.png"), pair("og:title", "Tea & biscuits")];
        assert_eq!(properties(page), wanted);
    }

    #[test]
    fn pages_without_it_have_a_title() {
        assert_eq!(properties("<title>A&nbsp;page</title>"), [pair("og:title", "A page")]);
        assert_eq!(properties("<script>'<title>no</title>'</script><p>text"), []);
        assert_eq!(properties("<meta property=og:title><title></title>"), []);
    }

    proptest::proptest! {
        #[test]
        fn no_page_is_a_fault(pieces in proptest::collection::vec(
            "(<title>|</title>|<meta property=og:|content=|['\"<>&;/ a-z!\\-]{0,12}|\\PC{0,4})", 0..30)) {
            let found = of_page(&pieces.concat());
            proptest::prop_assert!(found.len() <= MAX_PROPERTIES + 1);
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let long = "x".repeat(5_000);
        let page: String = (0..200).map(|index| format!("<meta property=\"og:{index}\" content=\"{long}\">")).collect();
        let found = of_page(&page);
        assert_eq!(found.len(), MAX_PROPERTIES);
        assert!(found.values().all(|value| value.len() == MAX_VALUE));
    }
}
