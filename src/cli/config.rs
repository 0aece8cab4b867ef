//! `conduit config`: the configuration that is in effect, or a documented example.

use std::io::Write;

use conduit::config::{Config, example};

use super::Failure;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Print a documented example with the defaults instead
    #[arg(long)]
    example: bool,
}

/// Prints TOML to standard output, below the warnings as comments.
pub(super) fn run(
    arguments: &Arguments,
    load: impl FnOnce() -> Result<(Config, Vec<String>), Failure>,
) -> Result<(), Failure> {
    let text = if arguments.example {
        example()
    } else {
        let (config, warnings) = load()?;
        let warnings: String = warnings.iter().map(|warning| format!("# Warning: {warning}\n")).collect();
        warnings + &config.effective()
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
