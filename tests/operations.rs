//! `tests/spec/operations.txt` says which operations of the specification there are. It must agree with the routes in
//! both directions, and the README's table is printed from it.

use std::{collections::BTreeSet, fmt::Write};

use conduit::start;

use crate::common::generated;

const FILE: &str = include_str!("spec/operations.txt");

/// One operation of the specification.
struct Operation {
    api: &'static str,
    support: Support,
    file: &'static str,
    id: &'static str,
    /// Method and path, the path's variables without their names.
    route: String,
    reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    Yes,
    Partial,
    No,
}

/// `PUT /a/{b}/c` -> `PUT /a/{}/c`. A slash at the end does not count.
fn normal(method: &str, path: &str) -> String {
    let segments = path.trim_end_matches('/').split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    format!("{method} {}", segments.collect::<Vec<_>>().join("/"))
}

/// The sections of the file, by their titles, without comments.
fn sections() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    FILE.split("\n== ").skip(1).map(|section| {
        let mut lines = section.lines();
        let title = lines.next().unwrap();
        (title, lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect())
    })
}

fn words_and_reason(line: &'static str) -> (Vec<&'static str>, &'static str) {
    let (columns, reason) = line.split_once("  - ").unwrap_or((line, ""));
    (columns.split_whitespace().collect(), reason.trim())
}

fn operations() -> Vec<Operation> {
    let lines = sections().filter(|(title, _)| *title != BEYOND).flat_map(|(api, lines)| {
        lines.into_iter().map(move |line| {
            let (columns, reason) = words_and_reason(line);
            let [support, file, id, method, path] = columns[..] else { panic!("not five columns: {line}") };
            let support = match support {
                "yes" => Support::Yes,
                "partial" => Support::Partial,
                "no" => Support::No,
                _ => panic!("neither yes nor partial nor no: {line}"),
            };
            assert_eq!(support == Support::Yes, reason.is_empty(), "a reason is for what is not `yes`: {line}");
            Operation { api, support, file, id, route: normal(method, path), reason }
        })
    });
    lines.collect()
}

const BEYOND: &str = "beyond the specification";

/// The routes that are in no specification, each listed with its reason.
fn beyond() -> BTreeSet<String> {
    let lines = sections().filter(|(title, _)| *title == BEYOND).flat_map(|(_, lines)| lines);
    lines
        .map(|line| {
            let (columns, reason) = words_and_reason(line);
            let [method, path] = columns[..] else { panic!("not method and path: {line}") };
            assert!(!reason.is_empty(), "why is it there? {line}");
            normal(method, path)
        })
        .collect()
}

#[test]
fn every_operation_is_listed_as_it_is() {
    let router = start::router().unwrap();
    let routes: Vec<(&str, BTreeSet<String>)> = router
        .routes()
        .map(|(info, paths)| (info.operation, paths.iter().map(|path| normal(info.method.as_str(), path)).collect()))
        .collect();
    let operations = operations();
    let beyond = beyond();
    let mut wrong = Vec::new();
    for Operation { support, id, route, .. } in &operations {
        let answered = routes.iter().any(|(_, paths)| paths.contains(route));
        // Two operations may share a path: inviting by user ID and by e-mail address do.
        let shared = || operations.iter().any(|other| other.route == *route && other.support != Support::No);
        match support {
            Support::Yes | Support::Partial if !answered => wrong.push(format!("{id} has no route {route}")),
            Support::No if answered && !shared() => wrong.push(format!("{id} is answered, but listed as no")),
            _ => {}
        }
    }
    for (operation, paths) in &routes {
        let listed = operations.iter().any(|operation| paths.contains(&operation.route));
        let listed_beyond = paths.iter().any(|path| beyond.contains(path));
        if listed == listed_beyond {
            wrong.push(format!("the route {operation} ({paths:?}) must be listed once"));
        }
    }
    for route in &beyond {
        if !routes.iter().any(|(_, paths)| paths.contains(route)) {
            wrong.push(format!("{route} is listed beyond the specification, but not answered"));
        }
    }
    assert!(wrong.is_empty(), "tests/spec/operations.txt and src/api/routes.rs disagree:\n{}", wrong.join("\n"));
}

#[test]
fn every_operation_of_the_specification_is_listed_once() {
    let mut seen = BTreeSet::new();
    for operation in &operations() {
        let fresh = seen.insert((operation.api, operation.file, operation.id));
        assert!(fresh, "{} is listed twice", operation.id);
    }
    let of = |api| seen.iter().filter(|(own, _, _)| *own == api).count();
    assert_eq!((of("client-server"), of("server-server")), (166, 36), "the numbers of operations in v1.19");
}

#[test]
fn the_readme_has_the_table_of_operations() {
    generated::assert_part("README.md", "operations", &table(&operations()));
}

/// A row for each of the specification's files; one for all files of an API of which nothing is there for one reason.
fn table(operations: &[Operation]) -> String {
    let mut table =
        "| API, file of the specification | operations | what is missing or different |\n|---|---|---|\n".to_owned();
    let mut begin = 0;
    while let Some(first) = operations.get(begin) {
        let same_api = |other: &&Operation| other.api == first.api;
        let whole: Vec<_> = operations.iter().filter(same_api).collect();
        let absent = whole.iter().all(|one| one.support == Support::No && one.reason == first.reason);
        let same_file = |other: &&Operation| same_api(other) && (absent || other.file == first.file);
        let group: Vec<_> = operations[begin..].iter().take_while(same_file).collect();
        let name = if absent { format!("{} (all)", first.api) } else { format!("{} `{}`", first.api, first.file) };
        row(&mut table, &name, &group);
        begin += group.len();
    }
    let client: Vec<_> = operations.iter().filter(|operation| operation.api == "client-server").collect();
    row(&mut table, "client-server (sum)", &client);
    table
}

fn row(table: &mut String, name: &str, group: &[&Operation]) {
    let there = group.iter().filter(|operation| operation.support != Support::No).count();
    let mut notes: Vec<&str> = Vec::new();
    if !name.ends_with("(sum)") {
        for operation in group.iter().filter(|operation| !operation.reason.is_empty()) {
            if !notes.contains(&operation.reason) {
                notes.push(operation.reason);
            }
        }
    }
    writeln!(table, "| {name} | {there} / {} | {} |", group.len(), notes.join("; ")).unwrap();
}
