//! dag-json: what decodes is encoded to canonical text, which decodes to the same value and encodes
//! to itself.
#![no_main]

use cidfs::codec::{dag_cbor, dag_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = dag_json::decode(data) else { return };
    let text = dag_json::encode(&value).expect("what was decoded");
    assert_eq!(dag_json::decode(&text).as_ref(), Ok(&value));
    assert_eq!(dag_json::encode(&value), Ok(text));
    let cbor = dag_cbor::encode(&value).expect("the same data model");
    assert_eq!(dag_cbor::decode(&cbor), Ok(value));
});
