//! What a person is told of libp2p's errors, which say the same thing several times, or nothing.

use std::error::Error;

use libp2p::swarm::DialError;

/// Returns what the innermost error says that says something.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| (*error).source());
    let told = all.map(ToString::to_string).filter(|told| !told.trim().is_empty());
    told.last().unwrap_or_else(|| format!("{error:?}"))
}

/// Returns why a peer could not be reached, for each address that was tried.
pub(super) fn why_not_reached(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => {
            let tried = tried.iter().map(|(address, error)| format!("{address}: {}", cause(error)));
            tried.collect::<Vec<_>>().join("; ")
        }
        DialError::WrongPeerId { obtained, .. } => format!("another peer is there, {obtained}"),
        other => cause(other),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use libp2p::core::transport::TransportError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("")]
    struct Silent;

    fn refused() -> TransportError<io::Error> {
        TransportError::Other(io::Error::other(io::Error::from_raw_os_error(111)))
    }

    #[test]
    fn a_cause_is_told_once_and_never_empty() {
        assert_eq!(cause(&refused()), "Connection refused (os error 111)");
        assert_eq!(cause(&Silent), "Silent");
    }

    #[test]
    fn each_address_has_its_reason() {
        let address: libp2p::Multiaddr = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
        let error = DialError::Transport(vec![(address.clone(), refused()), (address, refused())]);
        let one = "/ip4/192.0.2.7/tcp/1: Connection refused (os error 111)";
        assert_eq!(why_not_reached(&error), format!("{one}; {one}"));
    }
}
