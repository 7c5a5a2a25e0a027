//! What a step came to, in a form that two sides can be compared by.

use std::fmt;

/// One value of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number.
    Int(i64),
    /// An errno.
    Errno(i32),
    /// A text.
    Text(String),
    /// Bytes that were read.
    Bytes(Vec<u8>),
    /// Names.
    List(Vec<String>),
}

/// A value and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// `result`, `mode`, `mtime` and so on; with the number of the watched object before it, if it is of one.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// All that one side said to one step. The first field is `result`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The values, in the same order on each side.
    pub fields: Vec<Field>,
}

impl Outcome {
    /// A result and nothing else.
    #[must_use]
    pub fn of(result: Result<i64, i32>) -> Self {
        let mut outcome = Self { fields: Vec::new() };
        outcome.add("result", result.map_or_else(Value::Errno, Value::Int));
        outcome
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: Value) {
        self.fields.push(Field { name: name.into(), value });
    }

    /// The same with one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.add(name, value);
        self
    }

    /// What the call returned, or its errno.
    ///
    /// # Errors
    /// The call's.
    pub fn result(&self) -> Result<i64, i32> {
        match self.fields.first().map(|f| &f.value) {
            Some(Value::Int(n)) => Ok(*n),
            Some(Value::Errno(n)) => Err(*n),
            _ => Ok(0),
        }
    }

    /// Whether the call succeeded.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.result().is_ok()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Errno(n) => f.write_str(&errno_name(*n)),
            Self::Text(text) => f.write_str(text),
            Self::Bytes(bytes) => write!(f, "{} bytes {}", bytes.len(), blake3::hash(bytes).to_hex().split_at(8).0),
            Self::List(names) => write!(f, "{names:?}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, field) in self.fields.iter().enumerate() {
            match n {
                0 => write!(f, "{}", field.value)?,
                _ => write!(f, ", {} {}", field.name, field.value)?,
            }
        }
        Ok(())
    }
}

/// Where two byte strings begin to differ, for messages.
#[must_use]
pub fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The name of an errno.
#[must_use]
pub fn errno_name(errno: i32) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::E2BIG, "E2BIG"),
        (libc::EACCES, "EACCES"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EBADF, "EBADF"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EFAULT, "EFAULT"),
        (libc::EFBIG, "EFBIG"),
        (libc::EINTR, "EINTR"),
        (libc::EINVAL, "EINVAL"),
        (libc::EIO, "EIO"),
        (libc::EISDIR, "EISDIR"),
        (libc::ELOOP, "ELOOP"),
        (libc::EMLINK, "EMLINK"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENODATA, "ENODATA"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOENT, "ENOENT"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::ENOTEMPTY, "ENOTEMPTY"),
        (libc::ENXIO, "ENXIO"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EOVERFLOW, "EOVERFLOW"),
        (libc::EPERM, "EPERM"),
        (libc::EPIPE, "EPIPE"),
        (libc::ERANGE, "ERANGE"),
        (libc::ESPIPE, "ESPIPE"),
        (libc::ESTALE, "ESTALE"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EXDEV, "EXDEV"),
    ];
    NAMES.iter().find(|(n, _)| *n == errno).map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}
