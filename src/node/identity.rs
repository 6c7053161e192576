//! The key that a node is known by among others: `keys/self`, libp2p's private key (spec 06 §1).

use std::io;
use std::path::Path;

use super::NodeError;
use super::files::replace;
use crate::exchange::Keypair;

/// Returns the key of the repository at `repo`; one is made at the first use.
///
/// # Errors
/// When the file cannot be read or written, or holds no key: another one would make another node of this
/// one, so that is left to a person.
pub(super) fn load(repo: &Path) -> Result<Keypair, NodeError> {
    let path = repo.join("keys").join("self");
    let failed = |source| NodeError::Io { path: path.clone(), source };
    match std::fs::read(&path) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes).map_err(|error| {
            failed(io::Error::new(io::ErrorKind::InvalidData, format!("no private key: {error}")))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn make(path: &Path) -> io::Result<Keypair> {
    let key = Keypair::generate_ed25519();
    replace(path, &key.to_protobuf_encoding().map_err(io::Error::other)?, 0o600)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_node_keeps_its_key_and_nobody_else_reads_it() {
        let repo = tempfile::tempdir().unwrap();
        std::fs::create_dir(repo.path().join("keys")).unwrap();
        let key = load(repo.path()).unwrap();
        assert_eq!(load(repo.path()).unwrap().public(), key.public());
        let path = repo.path().join("keys/self");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"no key").unwrap();
        assert!(load(repo.path()).unwrap_err().to_string().contains("no private key"));
        assert_eq!(std::fs::read(&path).unwrap(), b"no key", "it is left as it is");
    }
}
