//! The documentation holds together: the book has every page, and what pages point to is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The project's pages, by their path.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain([root().join("README.md"), root().join("CHANGELOG.md")]);
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What links of a page point to, but for addresses on the web and places in the same page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with('#'))
}

#[test]
fn the_book_has_every_page_once() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: Vec<_> = links(&summary).map(str::to_owned).collect();
    let distinct: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), distinct.len(), "a page is listed twice");
    let pages = pages().into_iter().map(|(path, _)| path).filter(|path| path.starts_with(root().join("docs")));
    let there: BTreeSet<_> = pages.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let there = there.into_iter().filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(distinct, there, "docs/SUMMARY.md lists the pages of docs/");
}

#[test]
fn links_lead_somewhere() {
    for (page, text) in pages() {
        for link in links(&text) {
            let file = link.split_once('#').map_or(link, |(file, _)| file);
            assert!(page.parent().unwrap().join(file).exists(), "{}: {link} is not there", page.display());
        }
    }
}

/// Paths of this project between backticks, such as `src/lib.rs`.
#[test]
fn files_that_are_named_exist() {
    for (page, text) in pages() {
        let named = text.split('`').skip(1).step_by(2).filter(|name| !name.contains(char::is_whitespace));
        let ours = |name: &&str| {
            ["src/", "tests/", "docs/", "benches/", "nix/", "debian/"].iter().any(|folder| name.starts_with(folder))
        };
        for name in named.filter(ours).filter(|name| !name.contains(['*', '<', '{'])) {
            assert!(Path::new(&root().join(name)).exists(), "{}: {name} is not there", page.display());
        }
    }
}
