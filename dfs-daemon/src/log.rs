//! The log: filtered, one line or one JSON object an event, to stderr or appended to a file.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{ConfigError, wrong};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is to be logged: a level, or filters. Without a word, what is worth knowing without looking for it.
///
/// # Errors
/// It is neither.
pub fn level(given: Option<String>) -> Result<String, ConfigError> {
    let level = given.unwrap_or_else(|| "info".to_owned());
    match EnvFilter::try_new(&level) {
        Ok(_) => Ok(level),
        Err(e) => Err(wrong("--log-level", format!("{level:?} is not a level or filter: {e}"))),
    }
}

/// Starts the log of this process. A panic is logged as an error.
///
/// # Errors
/// When the filter is wrong, the file cannot be opened or a log was started before.
pub fn start(filter: &str, format: LogFormat, file: Option<&Path>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("wrong log level")?;
    let writer = match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("cannot open the log file {}", path.display()))?;
            BoxMakeWriter::new(Mutex::new(file))
        }
        None => BoxMakeWriter::new(io::stderr),
    };
    let color = file.is_none() && io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|e| anyhow::anyhow!("cannot start the log: {e}"))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_or_refused() {
        assert_eq!(level(None).unwrap(), "info");
        assert_eq!(level(Some("warn,metad=debug".into())).unwrap(), "warn,metad=debug");
        assert!(level(Some("a=b=c".into())).unwrap_err().to_string().starts_with("--log-level"));
    }
}
