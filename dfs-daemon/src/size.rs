//! Sizes as people write them: a number and K, M, G or T, each 1024 times the one before.

const SUFFIXES: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// The bytes of a size; without a suffix they are bytes. `None`: it is none, or more than 64 bits.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let last = text.chars().last()?.to_ascii_uppercase();
    let (digits, shift) = match SUFFIXES.iter().find(|(suffix, _)| *suffix == last) {
        Some((_, shift)) => (&text[..text.len() - 1], *shift),
        None => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The size in the largest suffix that leaves it exact.
#[must_use]
pub fn show(bytes: u64) -> String {
    match SUFFIXES.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((suffix, shift)) => format!("{}{suffix}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("3k", 3 << 10), ("64M", 64 << 20), ("10G", 10 << 30), ("2t", 2 << 40)]
        {
            assert_eq!(parse(text), Some(bytes), "{text}");
            assert_eq!(parse(&show(bytes)), Some(bytes));
        }
        assert_eq!((show(1025 << 20), show(1 << 40), show(7)), ("1025M".into(), "1T".into(), "7".into()));
        for bad in ["", "M", "-1", "+1", "1.5G", "10 G", "10GB", "1Mé", "99999999999T"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
