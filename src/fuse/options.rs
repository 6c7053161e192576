//! What `-o` takes: the options of mount(8) that mean something here, and our own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{getegid, geteuid};

use crate::sys::mount::MountSpec;
use crate::vfs::{Ownership, VfsOptions, WALKAHEAD_BLOCKS};

/// How long a request waits for blocks unless `timeout=` or `hard` says otherwise.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// Longest `timeout=`; whoever wants to wait longer wants `hard`.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Largest `walkahead=`: a tenth of a gigabyte in blocks of directories.
const WALKAHEAD_MAX: usize = 65_536;

/// Programs that `nofetch=` names at most.
const NO_FETCH_MAX: usize = 64;

/// Bytes of a program's name that the kernel keeps (`TASK_COMM_LEN`, without the end).
const TASK_NAME_LEN: usize = 15;

/// The options that mean something, for the message about one that does not.
const KNOWN: &str = "allow_other, listpins, nonempty, offline, timeout=SECONDS, hard, uid=, gid=, \
                     umask=, fmask=, dmask=, fsname=, exec, noexec, setpins, small_files, \
                     walkahead=, nofetch=";

/// What is said to mount(8) and fstab themselves, or is so anyway.
const IGNORED: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "norelatime",
    "nosuid",
    "nouser",
    "nousers",
    "relatime",
    "ro",
    "user",
    "users",
];

/// Why options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option \"{0}\"; known are: {KNOWN}")]
    Unknown(String),
    /// An option's value is missing or wrong.
    #[error("the mount option \"{option}\" takes {takes}")]
    Value {
        /// The option as given.
        option: String,
        /// What it takes.
        takes: &'static str,
    },
    /// What is mounted cannot change.
    #[error("what /ipfs shows is immutable (EROFS): mount it with ro, not rw")]
    Writable,
    /// Only the kernel's refusal of every change keeps files that it opens by itself from being written.
    #[error("setpins and small_files do not go together: mount twice, or pin with cidfs pin add")]
    Pins,
    /// Strangers' files get no power.
    #[error("the mount option \"{0}\" is never given: what strangers wrote is nosuid and nodev")]
    Unsafe(String),
}

/// The options of one mount.
#[allow(clippy::struct_excessive_bools, reason = "they are switches of mount(8), as it has them")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Lets users other than the daemon's in.
    pub allow_other: bool,
    /// Lists the pinned roots in the namespace's root even with `allow_other`.
    pub list_pins: bool,
    /// Mounts over a directory that is not empty.
    pub nonempty: bool,
    /// Forbids to run programs.
    pub noexec: bool,
    /// Takes pins by setxattr(2), so that to the kernel the mount is not read-only.
    pub set_pins: bool,
    /// Leaves the opening of files to the kernel: small ones are read faster, big ones slower.
    pub small_files: bool,
    /// Never asks other nodes.
    pub offline: bool,
    /// How long a request may wait for blocks; `None` for ever (`hard`).
    pub timeout: Option<Duration>,
    /// Owner of everything; `None` is the daemon's user.
    pub uid: Option<u32>,
    /// Group of everything; `None` is the daemon's group.
    pub gid: Option<u32>,
    /// Permission bits taken from files.
    pub file_mask: Option<u32>,
    /// Permission bits taken from directories.
    pub dir_mask: Option<u32>,
    /// Blocks that are fetched ahead of one who walks through a tree; 0 for none.
    pub walkahead: usize,
    /// Programs that nothing is fetched ahead for.
    pub no_fetch: Vec<String>,
    /// What the table of mounts shows as source.
    pub source: Option<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            list_pins: false,
            nonempty: false,
            noexec: false,
            set_pins: false,
            small_files: false,
            offline: false,
            timeout: Some(TIMEOUT),
            uid: None,
            gid: None,
            file_mask: None,
            dir_mask: None,
            walkahead: WALKAHEAD_BLOCKS,
            no_fetch: Vec::new(),
            source: None,
        }
    }
}

impl MountOptions {
    /// Parses a comma-separated list; of contradicting options the last one counts.
    ///
    /// # Errors
    /// [`OptionError`] names the first option that cannot be used.
    pub fn parse(list: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in list.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((name, value)) => options.set(option, name, value)?,
                None => options.switch(option)?,
            }
        }
        if options.set_pins && options.small_files { Err(OptionError::Pins) } else { Ok(options) }
    }

    fn switch(&mut self, option: &str) -> Result<(), OptionError> {
        match option {
            "allow_other" => self.allow_other = true,
            "listpins" => self.list_pins = true,
            "nonempty" => self.nonempty = true,
            "noexec" => self.noexec = true,
            "exec" => self.noexec = false,
            "offline" => self.offline = true,
            "hard" => self.timeout = None,
            "setpins" => self.set_pins = true,
            "small_files" => self.small_files = true,
            "rw" => return Err(OptionError::Writable),
            "suid" | "dev" => return Err(OptionError::Unsafe(option.to_owned())),
            other if IGNORED.contains(&other) || other.starts_with("x-") => {}
            other => return Err(OptionError::Unknown(other.to_owned())),
        }
        Ok(())
    }

    fn set(&mut self, option: &str, name: &str, value: &str) -> Result<(), OptionError> {
        let wrong = |takes| OptionError::Value { option: option.to_owned(), takes };
        let id = || value.parse().map_err(|_| wrong("a number of a user or group"));
        let mask = || {
            let mask = u32::from_str_radix(value, 8).ok().filter(|mask| *mask <= 0o777);
            mask.ok_or_else(|| wrong("permission bits in octal, from 0 to 777"))
        };
        match name {
            "timeout" => {
                let takes = "a time from 1s to 24h, in s, m or h (hard waits for ever)";
                self.timeout = Some(parse_time(value).ok_or_else(|| wrong(takes))?);
            }
            "uid" => self.uid = Some(id()?),
            "gid" => self.gid = Some(id()?),
            "umask" => {
                self.file_mask = Some(mask()?);
                self.dir_mask = self.file_mask;
            }
            "fmask" => self.file_mask = Some(mask()?),
            "dmask" => self.dir_mask = Some(mask()?),
            "walkahead" => {
                let blocks = value.parse().ok().filter(|blocks| *blocks <= WALKAHEAD_MAX);
                self.walkahead =
                    blocks.ok_or_else(|| wrong("a number of blocks, at most 65536"))?;
            }
            "nofetch" => {
                let takes = "names of programs with a colon between them, at most 64";
                self.no_fetch = parse_names(value).ok_or_else(|| wrong(takes))?;
            }
            "fsname" if !value.is_empty() => self.source = Some(value.to_owned()),
            "fsname" => return Err(wrong("a name")),
            name if name == "comment" || name.starts_with("x-") => {}
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    /// Returns what these options say to the filesystem itself.
    ///
    /// `inode_key` makes inode numbers, which stay the same as long as it does; `volume` is a path
    /// on the volume whose room statfs(2) shows.
    pub fn vfs(&self, inode_key: [u8; 32], volume: Option<PathBuf>) -> VfsOptions {
        let owner = Ownership {
            uid: self.uid.unwrap_or_else(|| geteuid().as_raw()),
            gid: self.gid.unwrap_or_else(|| getegid().as_raw()),
            file_mask: self.file_mask,
            dir_mask: self.dir_mask.unwrap_or(0),
        };
        let list_root = !self.allow_other || self.list_pins;
        let (offline, claims) = (self.offline, !self.small_files);
        VfsOptions {
            owner,
            offline,
            claims,
            list_root,
            inode_key,
            volume,
            fetch_budget: Arc::default(),
            walkahead: self.walkahead,
            no_fetch: self.no_fetch.clone(),
            keeper: None,
        }
    }

    pub(super) fn spec(&self) -> MountSpec {
        MountSpec {
            source: self.source.clone().unwrap_or_else(|| "cidfs".to_owned()),
            allow_other: self.allow_other,
            noexec: self.noexec,
            read_only: !self.set_pins,
        }
    }
}

/// Names as the kernel keeps them.
fn parse_names(list: &str) -> Option<Vec<String>> {
    let names: Vec<&str> = list.split(':').collect();
    let is_good = names.len() <= NO_FETCH_MAX && names.iter().all(|name| !name.is_empty());
    let short = |name: &str| {
        name.chars()
            .scan(0, |len, char| {
                *len += char.len_utf8();
                (*len <= TASK_NAME_LEN).then_some(char)
            })
            .collect()
    };
    is_good.then(|| names.into_iter().map(short).collect())
}

fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit_seconds) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "s") => (number, 1),
        (number, "m") => (number, 60),
        (number, "h") => (number, 60 * 60),
        _ => (text, 1),
    };
    let seconds = number.parse::<u32>().ok()?.checked_mul(unit_seconds)?;
    let time = Duration::from_secs(seconds.into());
    (!time.is_zero() && time <= TIMEOUT_MAX).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> MountOptions {
        MountOptions::parse(list).unwrap()
    }

    #[test]
    fn options_are_parsed() {
        assert_eq!(parse(""), MountOptions::default());
        assert_eq!(parse("ro,noauto,nofail,_netdev,x-systemd.automount,x-a=b"), parse(""));
        assert!(parse("setpins").set_pins && !parse("").set_pins);
        let all = parse("allow_other,listpins,nonempty,noexec,offline,uid=1,gid=2,fsname=a b");
        assert!(all.allow_other && all.list_pins && all.nonempty && all.noexec && all.offline);
        assert_eq!((all.uid, all.gid, all.source.as_deref()), (Some(1), Some(2), Some("a b")));
        assert!(!parse("noexec,exec").noexec);
    }

    #[test]
    fn masks_are_octal_and_umask_sets_both() {
        let masks = |list| (parse(list).file_mask, parse(list).dir_mask);
        assert_eq!(masks("umask=022"), (Some(0o022), Some(0o022)));
        assert_eq!(masks("umask=022,fmask=111"), (Some(0o111), Some(0o022)));
        assert_eq!(masks("dmask=0"), (None, Some(0)));
    }

    #[test]
    fn times_have_units_and_bounds() {
        let check = |list, seconds: Option<u64>| {
            assert_eq!(parse(list).timeout, seconds.map(Duration::from_secs), "{list}");
        };
        check("", Some(60));
        check("timeout=5", Some(5));
        check("timeout=5s", Some(5));
        check("timeout=2m", Some(120));
        check("timeout=24h", Some(86400));
        check("timeout=5,hard", None);
        check("hard,timeout=5", Some(5));
    }

    #[test]
    fn what_is_fetched_ahead_can_be_less() {
        assert_eq!(parse("walkahead=0").walkahead, 0);
        assert_eq!(parse("nofetch=updatedb").no_fetch, ["updatedb"]);
        let names = parse("nofetch=locate:a-name-longer-than-the-kernel-keeps").no_fetch;
        assert_eq!(names, ["locate", "a-name-longer-t"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let check = |list: &str, sentence: &str| {
            let error = MountOptions::parse(list).unwrap_err().to_string();
            assert!(error.contains(sentence), "{list}: {error}");
        };
        check("ro,wrong", "unknown mount option \"wrong\"; known are: allow_other, listpins");
        check("wrong=1", "unknown mount option \"wrong=1\"");
        check("allow_other=1", "unknown mount option \"allow_other=1\"");
        check("rw", "mount it with ro");
        check("small_files,setpins", "do not go together");
        check("suid", "\"suid\" is never given");
        check("uid=root", "\"uid=root\" takes a number");
        check("fmask=888", "octal");
        check("fmask=7777", "octal");
        for time in
            ["timeout=", "timeout=0", "timeout=25h", "timeout=-1", "timeout=1d", "timeout=é"]
        {
            check(time, "takes a time from 1s to 24h");
        }
        check("fsname=", "takes a name");
        check("walkahead=many", "a number of blocks, at most 65536");
        check("walkahead=65537", "a number of blocks");
        check("nofetch=", "names of programs");
        check("nofetch=a::b", "names of programs");
    }

    #[test]
    fn pins_are_listed_to_others_only_on_request() {
        let lists = |list| parse(list).vfs([0; 32], None).list_root;
        assert!(lists(""));
        assert!(!lists("allow_other"));
        assert!(lists("allow_other,listpins"));
    }
}
