//! Running ordinary tools, and small things that tests share.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Before scripts: `not COMMAND` fails if the command does not. With a `!` before it bash goes on in either case, whatever
/// `-e` says.
pub const NOT: &str = r#"not() { if "$@"; then echo "this should have failed: $*" >&2; exit 1; fi; }
"#;

/// Runs a shell script in `dir`; its output is shown only when it fails.
///
/// # Errors
/// It does not exit with 0.
pub fn sh(dir: &Path, script: &str) -> Result<String> {
    let text = format!("{NOT}{script}");
    let out = Command::new("bash").args(["-xeuo", "pipefail", "-c", &text]).current_dir(dir).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{}: {script}\n{text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(text)
}

/// A counter or gauge from a Prometheus endpoint on loopback, summed over labels; 0 when it was never counted.
///
/// # Errors
/// Nothing answers there.
pub fn metric(port: u16, name: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("no metrics there")?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let of = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        line.rsplit(' ').next()?.parse().ok()
    };
    Ok(text.lines().filter_map(of).sum())
}

/// Deterministic bytes: the same seed gives the same content.
#[must_use]
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The seed of a random test: `$DFS_SEED`, or a new one; printed either way.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var("DFS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("seed: DFS_SEED={seed}");
    seed
}
