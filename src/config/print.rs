//! Options as TOML: the documented example, and the configuration in effect.

use super::{
    Config,
    options::RESTART,
    setting::{Entry, Table},
};

/// What stands above the options in `conduit-example.toml`.
const INTRODUCTION: &str = "\
# The configuration of conduit, with every option and its default.
#
# This file is printed by `conduit config --example`. Copy it, set server_name and database_path, and start
# `conduit -c FILE`, or name the file in the environment variable CONDUIT_CONFIG.
#
# Every option can be set in the environment as well, which goes before the file: CONDUIT_PORT=8008, or
# CONDUIT_TURN_SECRET for `secret` in [global.turn].
#
# A secret can be kept in a file of its own. Write, for example, registration_token_file with the path of the file
# instead of registration_token.
#
# `conduit config` shows what is in effect and what was not understood. `conduit admin server reload`, or the signal
# SIGHUP, has a running server read this file again; what needs a restart for it says so here.

";

/// The text of `conduit-example.toml`.
pub fn example() -> String {
    let mut text = INTRODUCTION.to_owned();
    print(&mut Config::default(), "", true, &mut text);
    text
}

/// What is in effect, without secrets. Options that are not set are left out.
pub(super) fn effective(config: &Config) -> String {
    let mut text = String::new();
    print(&mut config.clone(), "", false, &mut text);
    text
}

/// Writes a table: its own options, then the tables in it. Its path is empty, or ends in a dot.
fn print(table: &mut dyn Table, path: &str, documented: bool, text: &mut String) {
    text.push_str(&format!("[{}]\n", format!("global.{path}").trim_end_matches('.')));
    let mut tables = Vec::new();
    for option in table.options() {
        if option.setting.table().is_some() {
            tables.push(option);
        } else {
            print_option(&option, path, documented, text);
        }
    }
    for Entry { name, doc, setting, .. } in tables {
        text.push('\n');
        if documented {
            text.push_str(&comment(doc));
            text.push_str(remark(&format!("{path}{name}")));
        }
        if let Some(table) = setting.table() {
            print(table, &format!("{path}{name}."), documented, text);
        }
    }
}

fn print_option(option: &Entry<'_>, path: &str, documented: bool, text: &mut String) {
    let Entry { name, doc, example, setting } = option;
    let value = setting.write();
    if !documented {
        text.push_str(&value.map(|value| format!("{name} = {value}\n")).unwrap_or_default());
        return;
    }
    text.push('\n');
    text.push_str(&comment(doc));
    text.push_str(remark(&format!("{path}{name}")));
    match (value, example) {
        (Some(value), _) => text.push_str(&format!("#{name} = {value}\n")),
        (None, example) => {
            text.push_str(&format!("# Not set. For example:\n#{name} = {}\n", example.unwrap_or("\"\"")))
        }
    }
}

/// What is to be known of a change of the option or table at `path`, besides its documentation.
fn remark(path: &str) -> &'static str {
    if RESTART.contains(&path) { "# A change of it needs a restart.\n" } else { "" }
}

/// The lines of a documentation as comments.
fn comment(doc: &str) -> String {
    doc.lines().map(|line| format!("#{line}\n")).collect()
}
