//! The closed list of what can go wrong, shared by every process.
//!
//! Each error of Wharf has one of these. An edge turns it into a code of its protocol with one
//! function and no `_` arm: here for gRPC and ttrpc, whose numbers are the same.

/// Kind of an error. The caller acts on it; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked makes no sense, whatever the state: mend the request.
    Invalid,
    /// The thing named is not here.
    NotFound,
    /// The name or id is taken.
    AlreadyExists,
    /// Not in this state: change the state, then ask again.
    Precondition,
    /// The thing changed under the call: read it again.
    Conflict,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// Known, and not allowed; on the host: not enough privilege.
    Denied,
    /// A limit, a full disk, a full queue.
    Exhausted,
    /// The place asked for is behind or beyond what is kept.
    OutOfRange,
    /// It took too long.
    Deadline,
    /// The peer is away: the same call may go through later.
    Unavailable,
    /// The caller gave up.
    Cancelled,
    /// Bytes are not what they were said to be.
    Corrupt,
    /// This host or this version can't do it.
    Unsupported,
    /// A fault of Wharf or of the host beneath it.
    Internal,
}

impl Kind {
    /// The code of gRPC and ttrpc (google.rpc.Code).
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::Invalid => 3,
            Self::Deadline => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::Denied => 7,
            Self::Exhausted => 8,
            Self::Precondition => 9,
            Self::Conflict => 10,
            Self::OutOfRange => 11,
            Self::Unsupported => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Corrupt => 15,
            Self::Unauthenticated => 16,
        }
    }

    /// The kind behind a code from a peer; codes that no kind has are faults of the peer.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        match code {
            1 => Self::Cancelled,
            3 => Self::Invalid,
            4 => Self::Deadline,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::Denied,
            8 => Self::Exhausted,
            9 => Self::Precondition,
            10 => Self::Conflict,
            11 => Self::OutOfRange,
            12 => Self::Unsupported,
            14 => Self::Unavailable,
            15 => Self::Corrupt,
            16 => Self::Unauthenticated,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn codes_round_trip() {
        for code in 1..=16 {
            let kind = Kind::from_code(code);
            assert!(kind.code() == code || kind == Kind::Internal, "{code}");
        }
    }
}
