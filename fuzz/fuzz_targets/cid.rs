//! CIDs from bytes and from text: what is accepted survives its own text and bytes.
#![no_main]

use cidfs::block::{cid_from_bytes, cid_from_text, cid_prefix, encode_base, parse_base};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((cid, used)) = cid_prefix(data) {
        assert_eq!(cid.to_bytes(), data[..used]);
        assert_eq!(cid_from_bytes(&data[..used]), Ok(cid));
        for base in ["base16", "base32", "base36", "base58btc", "base64url"] {
            let text = encode_base(&cid, parse_base(base).expect("a base that is known"));
            assert_eq!(cid_from_text(&text), Ok(cid));
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(cid) = cid_from_text(text)
    {
        assert_eq!(cid_from_text(&cid.to_string()), Ok(cid));
        assert_eq!(cid_from_bytes(&cid.to_bytes()), Ok(cid));
    }
});
