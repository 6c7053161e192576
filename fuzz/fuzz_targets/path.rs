//! Content paths and mount options: what is accepted says the same when it is read again.
#![no_main]

use cidfs::codec::node::name_is_legal;
use cidfs::fuse::{MountOptions, TIMEOUT_MAX};
use cidfs::unixfs::ContentPath;
use libfuzzer_sys::fuzz_target;

/// The permission bits that a mask can take away.
const MASK_MAX: u32 = 0o777;

fuzz_target!(|data: &[u8]| {
    check_path(data);
    if let Ok(list) = std::str::from_utf8(data) {
        check_options(list);
    }
});

fn check_path(data: &[u8]) {
    let Ok(path) = ContentPath::parse(data) else { return };
    let names = || path.segments.iter().map(|segment| segment.as_bytes());
    assert!(names().all(name_is_legal));
    let text = path.to_string();
    // Text cannot say names that are not UTF-8.
    if names().all(|name| std::str::from_utf8(name).is_ok()) {
        assert_eq!(text.parse().as_ref(), Ok(&path), "{text}");
    }
}

fn check_options(list: &str) {
    let Ok(options) = MountOptions::parse(list) else { return };
    let masks = [options.file_mask, options.dir_mask];
    assert!(masks.into_iter().flatten().all(|mask| mask <= MASK_MAX));
    assert!(options.timeout.is_none_or(|time| !time.is_zero() && time <= TIMEOUT_MAX));
    assert_eq!(MountOptions::parse(&format!("{list},{list}")), Ok(options), "the last one counts");
}
