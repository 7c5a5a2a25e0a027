//! Points in time, as POSIX has them.

use serde::{Deserialize, Serialize};

/// Seconds and nanoseconds since 1970-01-01 UTC; may lie before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nanos: u32,
}

impl Timestamp {
    /// `None` if `nanos` is a whole second or more.
    #[must_use]
    pub fn new(secs: i64, nanos: u32) -> Option<Self> {
        (nanos < 1_000_000_000).then_some(Self { secs, nanos })
    }

    /// This point as a count of milliseconds, saturating; used for due times.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.secs).unwrap_or(0).saturating_mul(1000).saturating_add(u64::from(self.nanos / 1_000_000))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(t: std::time::SystemTime) -> Self {
        let signed = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Self { secs: signed(d.as_secs()), nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                match d.subsec_nanos() {
                    0 => Self { secs: -signed(d.as_secs()), nanos: 0 },
                    n => Self { secs: -signed(d.as_secs()) - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for std::time::SystemTime {
    fn from(t: Timestamp) -> Self {
        let nanos = std::time::Duration::from_nanos(u64::from(t.nanos));
        let whole = std::time::Duration::from_secs(t.secs.unsigned_abs());
        let base = if t.secs >= 0 { Self::UNIX_EPOCH.checked_add(whole) } else { Self::UNIX_EPOCH.checked_sub(whole) };
        base.and_then(|b| b.checked_add(nanos)).unwrap_or(Self::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn system_time_and_back() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2_000_000_000, 5), (4_000_000_000, 7)] {
            let t = Timestamp::new(secs, nanos).unwrap();
            assert_eq!(Timestamp::from(SystemTime::from(t)), t);
        }
    }
}
