//! gRPC statuses: how daemons say what went wrong, and what a caller may make of it.
//!
//! On the metadata side refusals travel inside answers; a status there means
//! that something went wrong around them. On the chunk side statuses are the
//! answers themselves, also packed into messages as [`v1::PutError`].

use tonic::{Code, Status};

use crate::convert::Malformed;
use crate::v1;

/// Longest message that is packed into a [`v1::PutError`].
const ERROR_BYTES: usize = 512;

/// What a caller may make of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A fault: whether it was done is not known. The same may be sent again, here or elsewhere.
    Retry,
    /// A definite answer of the peer; the same request will get it again.
    Refused,
}

impl Outcome {
    /// What `status` means.
    ///
    /// A request that was given up at its deadline carries `Cancelled` ("Timeout expired"), not
    /// `DeadlineExceeded`; a lost connection `Unavailable`, `Unknown`, `Internal` or `Cancelled`.
    /// `ResourceExhausted` is a peer's "no room", unless the connection itself was cut for it.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        match status.code() {
            // A status that the transport made up on this side has a source; one that the peer sent has none.
            Code::ResourceExhausted | Code::PermissionDenied if std::error::Error::source(status).is_some() => {
                Self::Retry
            }
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => Self::Refused,
            Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable => Self::Retry,
        }
    }

    /// Whether the same may be sent again.
    #[must_use]
    pub fn is_retry(self) -> bool {
        self == Self::Retry
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// No such session, node, store or chunk.
#[must_use]
pub fn not_found(what: &str) -> Status {
    Status::not_found(format!("no such {what}"))
}

/// The stored bytes are not those that their name says.
#[must_use]
pub fn damaged(what: &str) -> Status {
    Status::data_loss(format!("damaged: {what}"))
}

/// No room on the disk.
#[must_use]
pub fn no_room() -> Status {
    Status::resource_exhausted("no room")
}

/// The peer belongs to another cluster.
#[must_use]
pub fn other_cluster() -> Status {
    Status::failed_precondition("of another cluster")
}

/// The peer speaks another version of the protocol.
#[must_use]
pub fn other_protocol(theirs: u32) -> Status {
    Status::failed_precondition(format!("protocol version {theirs}, this side speaks {}", crate::PROTOCOL))
}

/// Shutting down, starting, or too busy: not done here now.
#[must_use]
pub fn unavailable(why: &str) -> Status {
    Status::unavailable(why)
}

/// A fault of this side: what happened is not known.
#[must_use]
pub fn fault(what: impl std::fmt::Display) -> Status {
    Status::internal(what.to_string())
}

impl From<&Status> for v1::PutError {
    fn from(status: &Status) -> Self {
        let mut message = status.message().to_owned();
        message.truncate(message.floor_char_boundary(ERROR_BYTES));
        Self { code: status.code().into(), message }
    }
}

impl From<v1::PutError> for Status {
    fn from(error: v1::PutError) -> Self {
        match Code::from(error.code) {
            Code::Ok => Self::unknown("an error that says it is none"),
            code => Self::new(code, error.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_definite_and_faults_are_not() {
        for refused in [not_found("chunk"), damaged("x"), no_room(), other_cluster(), other_protocol(9)] {
            assert_eq!(Outcome::of(&refused), Outcome::Refused, "{refused:?}");
        }
        assert_eq!(Outcome::of(&Malformed { what: "x" }.into()), Outcome::Refused);
        let cancelled = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(cancelled.code(), Code::Cancelled);
        let deadline = Status::deadline_exceeded("late");
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        for fault in [cancelled, deadline, broken, unavailable("stopping"), fault("disk")] {
            assert!(Outcome::of(&fault).is_retry(), "{fault:?}");
        }
    }

    #[test]
    fn a_connection_cut_for_its_manners_is_no_full_disk() {
        let mut cut = no_room();
        assert_eq!(Outcome::of(&cut), Outcome::Refused);
        cut.set_source(std::sync::Arc::new(std::io::Error::other("too many frames")));
        assert_eq!(Outcome::of(&cut), Outcome::Retry);
    }

    #[test]
    fn packed_and_unpacked() {
        for code in 1..=16 {
            let status = Status::new(Code::from(code), "why");
            let back = Status::from(v1::PutError::from(&status));
            assert_eq!((back.code(), back.message()), (status.code(), "why"));
        }
        for code in [0, 17, -1, i32::MIN, i32::MAX] {
            let status = Status::from(v1::PutError { code, message: String::new() });
            assert_eq!(status.code(), Code::Unknown);
        }
        let long = v1::PutError::from(&Status::internal("\u{e4}".repeat(400) + "x"));
        assert_eq!(long.message.len(), ERROR_BYTES);
        let odd = v1::PutError::from(&Status::internal("x".to_owned() + &"\u{e4}".repeat(400)));
        assert_eq!(odd.message.len(), ERROR_BYTES - 1);
    }
}
