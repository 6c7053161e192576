//! UnixFS messages: what decodes is encoded to something that decodes to the same message.
#![no_main]

use bytes::Bytes;
use cidfs::codec::unixfs::UnixFs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = UnixFs::decode(&Bytes::copy_from_slice(data)) else { return };
    let again = UnixFs::decode(&Bytes::from(message.encode())).expect("what was encoded");
    assert_eq!(again, message);
});
