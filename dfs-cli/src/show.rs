//! Showing things to people: hex, sizes, times, tables.

use std::fmt::Write;

use dfs_proto::v1::{Kind, NodeState, Time};

/// Bytes as hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The first digits of an id, enough to tell it from others.
#[must_use]
pub fn short(bytes: &[u8]) -> String {
    hex(bytes.get(..6).unwrap_or(bytes))
}

/// A number of bytes with a unit.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Milliseconds of silence; the largest number is "never".
#[must_use]
pub fn silence(ms: u64) -> String {
    match ms {
        u64::MAX => "never heard".to_owned(),
        0..1000 => "now".to_owned(),
        _ => format!("{} s ago", ms / 1000),
    }
}

/// The word for a node's state.
#[must_use]
pub fn node_state(state: i32) -> &'static str {
    match NodeState::try_from(state).unwrap_or(NodeState::Unspecified) {
        NodeState::Unspecified => "unknown",
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Retired => "retired",
    }
}

/// The word for a kind of inode.
#[must_use]
pub fn kind(kind: i32) -> &'static str {
    match Kind::try_from(kind).unwrap_or(Kind::Unspecified) {
        Kind::Unspecified => "unknown",
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
    }
}

/// A point in time, in UTC.
#[must_use]
pub fn time(t: &Time) -> String {
    let (days, second) = (t.secs.div_euclid(86_400), t.secs.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years; years begin in March so that leap days come last.
    let z = days.saturating_add(719_468);
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:09} UTC", t.nanos)
}

/// Rows under a head, in aligned columns.
#[must_use]
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut width = head.map(|h| h.chars().count());
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let mut line = String::from(" ");
        for (w, cell) in width.iter().zip(row) {
            let _ = write!(line, " {cell:<w$} ", w = *w);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `n thing` or `n things`.
#[must_use]
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
        assert_eq!(short(&[1; 32]), "010101010101");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(
            (silence(u64::MAX), silence(5), silence(61_000)),
            ("never heard".into(), "now".into(), "61 s ago".into())
        );
        assert_eq!(node_state(99), "unknown");
        assert_eq!((count(1, "slot", "slots"), count(0, "slot", "slots")), ("1 slot".into(), "0 slots".into()));
    }

    #[test]
    fn times_on_both_sides_of_1970() {
        let t = |secs, nanos| time(&Time { secs, nanos });
        assert_eq!(t(0, 0), "1970-01-01 00:00:00.000000000 UTC");
        assert_eq!(t(951_782_400, 5), "2000-02-29 00:00:00.000000005 UTC");
        assert_eq!(t(-1, 0), "1969-12-31 23:59:59.000000000 UTC");
        assert_eq!(t(1_709_210_096, 0), "2024-02-29 12:34:56.000000000 UTC");
        let _ = (t(i64::MAX, 0), t(i64::MIN, 0));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".to_owned(), "long".to_owned()], ["bcd".to_owned(), "x".to_owned()]];
        assert_eq!(table(["N", "VALUE"], &rows), "  N    VALUE\n  a    long\n  bcd  x\n");
    }
}
