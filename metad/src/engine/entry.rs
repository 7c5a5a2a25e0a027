//! The form of a log entry's payload: a version byte, then the entry in postcard.

use crate::engine::Fault;
use crate::machine::command::Entry;

const V1: u8 = 1;

/// The bytes of an entry.
pub(crate) fn encode(entry: &Entry) -> Result<Vec<u8>, Fault> {
    postcard::to_extend(entry, vec![V1]).map_err(|e| Fault::new(format!("an entry cannot be encoded: {e}")))
}

/// The inverse; `index` is for the message.
pub(crate) fn decode(index: u64, bytes: &[u8]) -> Result<Entry, Fault> {
    match bytes.split_first() {
        Some((&V1, rest)) => match postcard::take_from_bytes(rest) {
            Ok((entry, [])) => Ok(entry),
            Ok((_, more)) => Err(Fault::new(format!("log entry {index} has {} bytes too many", more.len()))),
            Err(e) => Err(Fault::new(format!("log entry {index} cannot be read: {e}"))),
        },
        Some((v, _)) => Err(Fault::new(format!("log entry {index} is of version {v}; this metad is too old for it"))),
        None => Err(Fault::new(format!("log entry {index} is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::command::Command;
    use dfs_core::time::Timestamp;

    #[test]
    fn round_trip_and_refusals() {
        let entry =
            Entry { now: Timestamp { secs: 5, nanos: 6 }, command: Command::OpenSession { client: "somebody".into() } };
        let bytes = encode(&entry).unwrap();
        assert_eq!(decode(1, &bytes).unwrap(), entry);
        assert!(decode(1, &[]).is_err());
        assert!(decode(1, &[2, 0]).unwrap_err().to_string().contains("version 2"));
        assert!(decode(1, &[&bytes[..], &[0]].concat()).is_err());
        for cut in 1..bytes.len() {
            assert!(decode(1, &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
