//! Mistakes in flags and configuration files, in words for whoever made them, and the checks that several programs make.
//!
//! All of these are mistakes of whoever starts the program (exit code 2), never a state of the machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A mistake in flags, options or file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Wrong flags, or a wish for help: clap says which and prints it.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {path} is wrong: {message}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// A value that cannot be used.
    #[error("{flag}: {message}")]
    Value {
        /// The flag's name.
        flag: &'static str,
        /// What is wrong with it and what to do.
        message: String,
    },
}

/// A value that cannot be used.
#[must_use]
pub fn wrong(flag: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Value { flag, message: message.into() }
}

/// What a TOML file says; without a file, what an empty one would.
///
/// # Errors
/// The file cannot be read, or is not what it should be.
pub fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
    toml::from_str(&text)
        .map_err(|e| ConfigError::Malformed { path: path.to_path_buf(), message: e.to_string().trim().to_owned() })
}

/// A number with its bounds.
///
/// # Errors
/// It is not within them.
pub fn in_range(flag: &'static str, n: u64, least: u64, most: u64) -> Result<u64, ConfigError> {
    if (least..=most).contains(&n) {
        Ok(n)
    } else {
        Err(wrong(flag, format!("must be between {least} and {most}, not {n}")))
    }
}

/// Where metrics are to be served.
///
/// # Errors
/// It is no address.
pub fn metrics_address(text: Option<String>) -> Result<Option<SocketAddr>, ConfigError> {
    text.map(|text| text.parse().map_err(|_| wrong("--metrics", format!("{text:?} is not an IP:PORT")))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct File {
        listen: String,
    }

    #[test]
    fn a_file_is_read_or_said_to_be_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_file::<File>(Some(&path))
        };
        assert_eq!(read("listen = 'h:1'").unwrap(), File { listen: "h:1".into() });
        let why = read("\nlissen = 'h:1'").unwrap_err().to_string();
        assert!(why.contains("c.toml") && why.contains("lissen") && why.contains("line 2"), "{why}");
        assert_eq!(read_file::<File>(None).unwrap(), File::default());
        let why = read_file::<File>(Some(Path::new("/does/not/exist.toml"))).unwrap_err().to_string();
        assert!(why.contains("cannot read") && why.contains("/does/not/exist.toml"), "{why}");
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(in_range("--n", 2, 2, 5).unwrap(), 2);
        assert_eq!(in_range("--n", 6, 2, 5).unwrap_err().to_string(), "--n: must be between 2 and 5, not 6");
        assert_eq!(metrics_address(Some("[::1]:9".into())).unwrap(), Some("[::1]:9".parse().unwrap()));
        assert!(metrics_address(Some("here".into())).unwrap_err().to_string().starts_with("--metrics"));
    }
}
