//! Dependencies between the layers go one way (`src/lib.rs` draws them). Reads the `use crate::` and `crate::` paths of
//! every source file and fails on an edge that leads up or sideways.

use std::{collections::BTreeSet, fs, path::Path};

/// The layers from the top; a module uses only what stands below it. Modules of one layer do not use each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["start"],
    &["api", "web", "delivery", "admin"],
    &["server"],
    &["sync"],
    &["check"],
    &["federation", "previews", "sso"],
    &["rooms"],
    &["users", "media", "push", "outgoing"],
    &["appservice"],
    &["store"],
    &["config", "signing", "http", "passing"],
    &["ids", "clock"],
    &["error"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The top-level modules that `text` names, but for what stands in comments.
fn used(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut modules = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names = match part.strip_prefix('{') {
            // `use crate::{a::b, c}`: the names at depth one
            Some(group) => group_heads(group),
            None => vec![head(part)],
        };
        modules.extend(names);
    }
    modules
}

fn head(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 1, 0);
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => {
                heads.push(head(&group[start..place]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 1 => {
                heads.push(head(&group[start..place]));
                start = place + 1;
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn dependencies_go_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let own = layer(&module).unwrap_or_else(|| panic!("src/{module} has no place in LAYERS"));
        for other in used(&fs::read_to_string(&file).unwrap()) {
            if let Some(other_layer) = layer(&other)
                && other != module
                && other_layer <= own
            {
                wrong.push(format!("{} uses {other}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that lead up:\n{}", wrong.join("\n"));
}
