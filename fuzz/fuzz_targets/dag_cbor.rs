//! dag-cbor: what decodes encodes to the same bytes, and another implementation agrees on what is
//! dag-cbor at all.
#![no_main]

use cidfs::codec::dag_cbor::{decode, encode};
use cidfs::codec::ipld::{Ipld, IpldError};
use libfuzzer_sys::fuzz_target;
use serde_ipld_dagcbor::DecodeError;

/// Longest digest in bytes that the other implementation holds.
const JUDGE_DIGEST_LEN_MAX: usize = 64;

/// Head of a float, of which it refuses one value.
const FLOAT_64: u8 = 0xfb;

/// Rules of ours that the other implementation does not hold everywhere.
const JUDGE_LETS_PASS: &[&str] = &["a link that is no CID", "an indefinite length"];

fuzz_target!(|data: &[u8]| {
    let ours = decode(data);
    if let Ok(value) = &ours {
        assert_eq!(encode(value).as_deref(), Ok(data));
    }
    match (ours, serde_ipld_dagcbor::from_slice::<ipld_core::ipld::Ipld>(data)) {
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
        // Its nesting limit is another, and its CIDs are shorter.
        (Ok(_), Err(DecodeError::DepthOverflow { .. })) => {}
        // It refuses -0.0, which other writers of the network do write.
        (Ok(_), Err(DecodeError::Mismatch { name: "f64", found: FLOAT_64 })) => {}
        (Ok(value), Err(error)) => assert!(has_long_digest(&value), "only we read it: {error}"),
        // It stops reading a CID where the CID ends, and takes map keys of indefinite length.
        (Err(IpldError::Cbor { reason, .. }), Ok(_)) if JUDGE_LETS_PASS.contains(&reason) => {}
        (Err(error), Ok(_)) => panic!("only we refuse it: {error}"),
    }
});

fn has_long_digest(value: &Ipld) -> bool {
    value.links().any(|cid| cid.hash().digest().len() > JUDGE_DIGEST_LEN_MAX)
}
