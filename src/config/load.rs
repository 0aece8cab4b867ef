//! Reading options from a file and from the environment.
//!
//! The file may hold them at its top or under `[global]`, and an option of a table may also be written in one word:
//! `turn_secret` is `secret` in `[turn]`. So there is one rule for the older flat keys and for the environment, where
//! it is `CONDUIT_TURN_SECRET`. A value in the environment is TOML; what is not, or not of the right type, is a text.
//!
//! What is wrong stops the start; what is unknown or meaningless is told once. No message shows a secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use toml::Value;

use super::{
    Config, ConfigError,
    nearest::nearest,
    options::INERT,
    setting::{Entry, Setting, Table},
};

/// A secret is a line, not a disk image named by mistake.
const MAX_SECRET_FILE: u64 = 64 * 1024;

/// Where the options being read come from, and what was found so far.
#[derive(Default)]
pub(super) struct Reader {
    /// What an administrator should know.
    pub(super) warnings: Vec<String>,
    /// The file or variable being read; it begins each message.
    source: String,
    /// Whether that is a variable, whose name says which option it is.
    in_environment: bool,
    /// The options that the source has set.
    given: BTreeSet<String>,
    /// Where each option was set, for messages about it later on.
    origin: BTreeMap<String, String>,
    /// For each secret that is set: was it in a file of its own?
    secrets: BTreeMap<String, bool>,
}

/// An option that a key names.
struct Found<'a> {
    /// Its tables and name, with dots.
    path: String,
    setting: &'a mut dyn Setting,
    /// The key is the secret's twin that names a file.
    by_file: bool,
}

impl Reader {
    /// Reads the file.
    pub(super) fn file(&mut self, path: &Path, config: &mut Config) -> Result<(), ConfigError> {
        self.source = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("cannot read the configuration file {}: {e}", self.source)))?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| {
            let line = 1 + e.span().map_or(0, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            ConfigError(format!("{}, line {line}: {}", self.source, e.message()))
        })?;
        for (key, value) in &table {
            match value {
                Value::Table(global) if key == "global" => self.table("", config, global)?,
                _ => self.option("", config, key, value)?,
            }
        }
        Ok(())
    }

    /// Reads the variables `CONDUIT_<KEY>`. An empty one counts as unset.
    pub(super) fn environment(
        &mut self,
        variables: Vec<(String, String)>,
        config: &mut Config,
    ) -> Result<(), ConfigError> {
        self.given.clear();
        self.in_environment = true;
        for (name, text) in variables {
            let Some(key) = variable_key(&name).filter(|key| key != "config" && !text.is_empty()) else {
                continue;
            };
            self.source = name;
            let before = (self.given.clone(), self.warnings.len());
            let raw = Value::String(text.clone());
            let Ok(parsed) = text.trim().parse::<Value>() else {
                self.option("", config, &key, &raw)?;
                continue;
            };
            if let Err(e) = self.option("", config, &key, &parsed) {
                self.given = before.0;
                self.warnings.truncate(before.1);
                // A password may look like a number, a path like a date: what fits as a text is one.
                self.option("", config, &key, &raw).map_err(|_| e)?;
            }
        }
        Ok(())
    }

    /// Where the option was set, as the beginning of a message about it.
    pub(super) fn error(&self, path: &str, reason: impl std::fmt::Display) -> ConfigError {
        match self.origin.get(path) {
            Some(origin) => ConfigError(format!("{origin}: {reason}")),
            None => ConfigError(format!("{path}: {reason}")),
        }
    }

    /// Whether the option was set by the file or the environment.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.origin.contains_key(path)
    }

    fn table(&mut self, prefix: &str, into: &mut dyn Table, values: &toml::Table) -> Result<(), ConfigError> {
        values.iter().try_for_each(|(key, value)| self.option(prefix, into, key, value))
    }

    /// Reads the option `key` of the table `into`, whose own path is `prefix` (empty, or ending in a dot).
    fn option(&mut self, prefix: &str, into: &mut dyn Table, key: &str, value: &Value) -> Result<(), ConfigError> {
        let Some(found) = find(into, prefix, key) else {
            self.unknown(prefix, into, key, value);
            return Ok(());
        };
        let label = self.label(&format!("{prefix}{key}"));
        let wrong = |reason: String| ConfigError(format!("{label}: {reason}"));
        if let Some(table) = found.setting.table() {
            match value {
                Value::Table(values) => return self.table(&format!("{}.", found.path), table, values),
                // "proxy = none" is how Conduit says that there is no proxy.
                Value::String(word) if word == "none" => return Ok(()),
                Value::Boolean(_) if table.options().iter().any(|option| option.name == "enabled") => {
                    return self.option(&format!("{}.", found.path), table, "enabled", value);
                }
                _ => {}
            }
        }
        if found.setting.is_secret() && self.secrets.insert(found.path.clone(), found.by_file) == Some(!found.by_file) {
            return Err(wrong(format!("{0} and {0}_file are both set: keep one", found.path)));
        }
        if !self.given.insert(found.path.clone()) {
            return Err(wrong(format!("{} is given twice", found.path)));
        }
        let result = if found.by_file {
            read_secret(value).and_then(|secret| found.setting.read(&secret))
        } else {
            found.setting.read(value)
        };
        result.map_err(wrong)?;
        self.origin.insert(found.path, label);
        Ok(())
    }

    /// How a message names an option: the variable, or the file and the key.
    fn label(&self, key: &str) -> String {
        if self.in_environment { self.source.clone() } else { format!("{}: {key}", self.source) }
    }

    fn unknown(&mut self, prefix: &str, table: &mut dyn Table, key: &str, value: &Value) {
        let label = self.label(&format!("{prefix}{key}"));
        let flat = format!("{prefix}{key}").replace('.', "_");
        let inert = INERT.iter().find(|inert| {
            let below = |rest: &str| rest.is_empty() || rest.starts_with('_');
            flat.strip_prefix(&inert.key.replace('.', "_")).is_some_and(below)
        });
        let warning = match inert {
            Some(inert) if inert.harmless.is_some() && inert.harmless == value.as_bool() => return,
            Some(inert) => format!("{label} has no effect: {}.", inert.why),
            None => {
                let known = names(table, "", if self.in_environment { "_" } else { "." });
                match nearest(key, known.iter().map(String::as_str)) {
                    Some(name) if self.in_environment => {
                        format!("{label} is not known and has no effect. Did you mean CONDUIT_{}?", name.to_uppercase())
                    }
                    Some(name) => format!("{label} is not known and has no effect. Did you mean {name}?"),
                    None => format!("{label} is not known and has no effect."),
                }
            }
        };
        self.warnings.push(warning);
    }
}

/// The variables of this server, in a fixed order.
pub(super) fn our_variables(env: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut variables: Vec<_> = env.filter(|(name, _)| variable_key(name).is_some()).collect();
    variables.sort();
    variables
}

/// The file to read: the one on the command line, else the one in `CONDUIT_CONFIG` unless that is empty.
pub(super) fn file_to_read(argument: Option<PathBuf>, variables: &[(String, String)]) -> Option<PathBuf> {
    let named = || variables.iter().find(|(name, _)| variable_key(name).as_deref() == Some("config"));
    argument.or_else(|| named().filter(|(_, path)| !path.is_empty()).map(|(_, path)| path.into()))
}

/// The key that a variable sets, in lower case.
fn variable_key(name: &str) -> Option<String> {
    name.to_ascii_lowercase().strip_prefix("conduit_").map(str::to_owned)
}

/// The option of `table` that `key` names: by its name, by its table's name and its own in one word, or either of
/// these with `_file` for a secret.
fn find<'a>(table: &'a mut dyn Table, prefix: &str, key: &str) -> Option<Found<'a>> {
    for Entry { name, setting, .. } in table.options() {
        let path = format!("{prefix}{name}");
        match key.strip_prefix(name) {
            Some("") => return Some(Found { path, setting, by_file: false }),
            Some("_file") if setting.is_secret() => return Some(Found { path, setting, by_file: true }),
            Some(rest) => {
                let below = rest.strip_prefix('_').zip(setting.table());
                if let Some(found) = below.and_then(|(rest, table)| find(table, &format!("{path}."), rest)) {
                    return Some(found);
                }
            }
            None => {}
        }
    }
    None
}

/// All keys of a table and of those below it.
pub(super) fn names(table: &mut dyn Table, prefix: &str, separator: &str) -> Vec<String> {
    let mut all = Vec::new();
    for Entry { name, setting, .. } in table.options() {
        let path = format!("{prefix}{name}");
        if setting.is_secret() {
            all.push(format!("{path}_file"));
        }
        if let Some(below) = setting.table() {
            all.extend(names(below, &format!("{path}{separator}"), separator));
        }
        all.push(path);
    }
    all
}

/// The text in the file that `path` names, without the line end that editors and `echo` put there.
fn read_secret(path: &Value) -> Result<Value, String> {
    let Value::String(path) = path else {
        return Err("expected a path in quotes".to_owned());
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET_FILE).read_to_string(&mut text))
        .map_err(|e| format!("cannot read {path}: {e}"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{path} is empty")),
        secret => Ok(Value::String(secret.to_owned())),
    }
}
