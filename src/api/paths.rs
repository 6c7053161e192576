//! Arguments that name content: paths and CIDs, resolved for a request.

use crate::api::error::ApiError;
use crate::block::Cid;
use crate::dag::Dag;
use crate::unixfs::{ContentPath, Resolved, resolve};

/// Resolves a path argument.
///
/// # Errors
/// When it is no path, or what it leads to is not there.
pub(super) async fn resolve_arg(dag: &Dag, arg: &[u8]) -> Result<Resolved, ApiError> {
    let path = ContentPath::parse(arg).map_err(|error| {
        ApiError::client(format!("invalid path \"{}\": {error}", String::from_utf8_lossy(arg)))
    })?;
    Ok(resolve(dag, &path).await?)
}

/// Resolves a path argument that must end at a block.
///
/// # Errors
/// As [`resolve_arg`], or when the path ends inside a block.
pub(super) async fn cid_of(dag: &Dag, arg: &[u8]) -> Result<Cid, ApiError> {
    let resolved = resolve_arg(dag, arg).await?;
    if resolved.remainder.is_empty() {
        return Ok(resolved.cid);
    }
    Err(ApiError::failed(format!(
        "{} ends inside the block {}; `dag get` shows it",
        String::from_utf8_lossy(arg),
        resolved.cid
    )))
}

/// Returns the last name of a path argument, which names what is got from it.
pub(super) fn last_name(arg: &[u8]) -> Vec<u8> {
    let names = arg.split(|&byte| byte == b'/').rev();
    names.into_iter().find(|name| !name.is_empty() && *name != b".").unwrap_or(b"x").to_vec()
}
