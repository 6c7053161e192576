//! Mount-helper mode: `mount -t cidfs SOURCE DIR -o …` runs `mount.cidfs SOURCE DIR -o …`.
//!
//! The exact file name of the program picks the mode; the words of mount(8) become those of
//! `cidfs mount`. Options for other programs (`auto`, `_netdev`, `x-…`) are left out; `repo=DIR`
//! says which repository, because fstab has no other place for it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::cli::failure::Failure;

const HELPER_NAMES: &[&str] = &["mount.cidfs", "mount.fuse.cidfs"];

/// Options of fstab that speak to mount(8), systemd or `fsck`, never to a file system; and `rw`,
/// which mount(8) adds whenever `ro` is not said.
const FOREIGN_OPTIONS: &[&str] =
    &["auto", "noauto", "nofail", "_netdev", "defaults", "user", "users", "nouser", "owner", "rw"];

/// Returns the command line to parse: as given, or translated from mount(8)'s.
///
/// # Errors
/// When a helper is called without source and directory.
pub(crate) fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let name = given.first().and_then(|name| Path::new(name).file_name());
    if !name.is_some_and(|name| HELPER_NAMES.iter().any(|helper| name == *helper)) {
        return Ok(given);
    }
    let mut words: Vec<OsString> = vec!["cidfs".into(), "mount".into()];
    let mut places = Vec::new();
    let mut rest = given.into_iter().skip(1);
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some("-o") => {
                add_options(&mut words, &rest.next().unwrap_or_default());
            }
            // mount(8) passes on: sloppy, no mtab, verbose; a type follows `-t`.
            Some("-s" | "-n" | "-v") => {}
            Some("-f") => return Err(Failure::usage("a fake mount (-f) is not supported")),
            Some("-t" | "-N") => drop(rest.next()),
            _ => places.push(word),
        }
    }
    if places.len() != 2 {
        return Err(Failure::usage("usage: mount.cidfs SOURCE DIR [-o OPTIONS]"));
    }
    words.push("--".into());
    words.extend(places);
    Ok(words)
}

fn add_options(words: &mut Vec<OsString>, options: &OsStr) {
    let options = options.to_string_lossy();
    let (repo, own): (Vec<&str>, Vec<&str>) = options
        .split(',')
        .filter(|option| !option.is_empty() && !option.starts_with("x-"))
        .filter(|option| !FOREIGN_OPTIONS.contains(option))
        .partition(|option| option.starts_with("repo="));
    words.extend(repo.iter().map(|repo| format!("--{repo}").into()));
    if !own.is_empty() {
        words.extend(["-o".into(), own.join(",").into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: &str) {
        let given = given.split(' ').map(OsString::from).collect();
        let words = arguments(given).unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn mount_helpers_speak_as_mount_does() {
        check("cidfs add x", "cidfs add x");
        check("/sbin/mount.cidfs /ipfs /mnt", "cidfs mount -- /ipfs /mnt");
        check(
            "mount.fuse.cidfs /ipfs /mnt -s -o rw,noauto,x-systemd.automount,allow_other",
            "cidfs mount -o allow_other -- /ipfs /mnt",
        );
        check(
            "mount.cidfs /ipfs /mnt -o repo=/srv/r,uid=1",
            "cidfs mount --repo=/srv/r -o uid=1 -- /ipfs /mnt",
        );
        check("mount.cidfs /ipfs /mnt -o defaults", "cidfs mount -- /ipfs /mnt");
        assert!(arguments(vec!["mount.cidfs".into(), "/ipfs".into()]).is_err());
    }
}
