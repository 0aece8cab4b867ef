//! `docs/administration.md` has every command as it is; after a change, run the tests with `CONDUIT_BLESS=1`.

use std::fmt::Write;

use clap::{Arg, Subcommand};
use conduit::admin;

use crate::common::generated::assert_part;

#[test]
fn the_page_on_administration_has_every_command() {
    assert_part("docs/administration.md", "commands", &commands());
}

fn commands() -> String {
    let mut text = String::new();
    let all = admin::Command::augment_subcommands(clap::Command::new("admin"));
    for group in all.get_subcommands() {
        writeln!(text, "\n### `{}`\n\n{}.\n\n| command | what it does |\n|---|---|", group.get_name(), about(group))
            .unwrap();
        for command in group.get_subcommands() {
            let arguments: String = command.get_arguments().map(argument).collect();
            let cell = format!("{}{arguments}", command.get_name()).replace('|', "\\|");
            writeln!(text, "| `{cell}` | {} |", about(command).replace('|', "\\|")).unwrap();
        }
    }
    text.push('\n');
    text
}

fn about(command: &clap::Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn argument(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    match argument.get_long() {
        Some(long) if argument.get_action().takes_values() => format!(" [--{long} {value}]"),
        Some(long) => format!(" [--{long}]"),
        None if argument.is_required_set() => format!(" {value}"),
        None => format!(" [{value}]"),
    }
}
