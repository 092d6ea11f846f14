//! epoll, with what became ready named by the loop's own [`Token`].

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::SysError;
use crate::logic::lines::Stream;

/// What a descriptor is to the loop. Numbers are never used twice, so a token of something that
/// is gone names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Signals,
    Connection(u32),
    /// Output of a process.
    Source(u32, Stream),
    /// Where a process' output goes, when it took less than it was given.
    Sink(u32, Stream),
    /// Stdin of a process, when it took less than it was given.
    Stdin(u32),
    /// A named pipe that feeds a process' stdin.
    Feed(u32),
    /// The connection that events go out on.
    Publisher,
    /// The kernel's word on memory.
    Memory,
    /// The pidfd of an init that is not our child.
    Init,
}

/// When to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
}

/// A descriptor is ready, or its other side is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) writable: bool,
}

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
}

impl Token {
    fn encode(self) -> u64 {
        let which = |stream| match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1 << 32,
        };
        match self {
            Self::Listener => 1 << 40,
            Self::Signals => 2 << 40,
            Self::Connection(number) => 3 << 40 | u64::from(number),
            Self::Source(number, stream) => 4 << 40 | which(stream) | u64::from(number),
            Self::Sink(number, stream) => 5 << 40 | which(stream) | u64::from(number),
            Self::Stdin(number) => 6 << 40 | u64::from(number),
            Self::Feed(number) => 7 << 40 | u64::from(number),
            Self::Publisher => 8 << 40,
            Self::Memory => 9 << 40,
            Self::Init => 10 << 40,
        }
    }

    fn decode(value: u64) -> Option<Self> {
        let number = u32::try_from(value & u64::from(u32::MAX)).ok()?;
        let stream = if value & 1 << 32 == 0 { Stream::Stdout } else { Stream::Stderr };
        Some(match value >> 40 {
            1 => Self::Listener,
            2 => Self::Signals,
            3 => Self::Connection(number),
            4 => Self::Source(number, stream),
            5 => Self::Sink(number, stream),
            6 => Self::Stdin(number),
            7 => Self::Feed(number),
            8 => Self::Publisher,
            9 => Self::Memory,
            10 => Self::Init,
            _ => return None,
        })
    }
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

impl Poller {
    pub(crate) fn new() -> Result<Self, SysError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| SysError::new("create", "epoll instance", errno))?;
        Ok(Self { epoll })
    }

    pub(crate) fn add(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), SysError> {
        self.epoll
            .add(fd, EpollEvent::new(interest.flags(), token.encode()))
            .map_err(|errno| SysError::new("watch", format!("{token:?}"), errno))
    }

    pub(crate) fn modify(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), SysError> {
        self.epoll
            .modify(fd, &mut EpollEvent::new(interest.flags(), token.encode()))
            .map_err(|errno| SysError::new("watch", format!("{token:?}"), errno))
    }

    /// Before the descriptor is closed: a duplicate in another process would keep it in the set.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
    }

    /// Blocks until something is ready or the time is over.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<Vec<Ready>, SysError> {
        let mut events = [EpollEvent::empty(); 32];
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up, or the last millisecond would be a busy loop.
            Some(time) => {
                let ms = time.as_micros().div_ceil(1000).min(60_000);
                EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
            }
        };
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(SysError::new("wait on", "epoll instance", errno)),
        };
        Ok(events[..count]
            .iter()
            .filter_map(|event| {
                let token = Token::decode(event.data())?;
                Some(Ready { token, writable: event.events().contains(EpollFlags::EPOLLOUT) })
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Stream, Token};

    #[test]
    fn tokens_round_trip() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Connection(u32::MAX),
            Token::Source(7, Stream::Stdout),
            Token::Source(u32::MAX, Stream::Stderr),
            Token::Sink(0, Stream::Stderr),
            Token::Stdin(1),
            Token::Feed(2),
            Token::Publisher,
            Token::Memory,
            Token::Init,
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(0), None);
    }
}
