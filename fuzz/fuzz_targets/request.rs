//! What RPC clients send before any content: parameters of the query, and the headers of parts.
//!
//! The first line of the input is a query; the whole of it is a `Content-Disposition`.
#![no_main]

use std::time::Duration;

use axum::extract::FromRequestParts as _;
use axum::http::Request;
use cidfs::api::multipart::Disposition;
use cidfs::api::request::{Params, escape, parse_cid, parse_duration};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

/// The longest time that a client may ask to wait.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365);

fuzz_target!(|data: &[u8]| {
    let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
    check_query(line);
    check_disposition(data);
});

fn check_query(query: &[u8]) {
    let uri = [b"/api/v0/add?", query].concat();
    let Ok(request) = Request::post(&uri[..]).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    // The parser of URIs drops what follows a '#'.
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let Ok(params) = block_on(Params::from_request_parts(&mut parts, &())) else { return };
    assert!(escapes_are_whole(query.as_bytes()), "a malformed escape is accepted: {query}");
    let values = params.all("arg").chain(params.all("timeout")).chain(params.all("cid-base"));
    for value in values {
        check_escape(value);
        let _: Result<_, _> = parse_cid(value);
    }
    if let Some(Ok(time)) = params.text("timeout").ok().flatten().map(parse_duration) {
        assert!(time <= DURATION_MAX);
    }
    if let (Ok(encoder), Some(Ok(cid))) = (params.encoder(), params.bytes("arg").map(parse_cid)) {
        assert_eq!(
            parse_cid(encoder.encode(&cid).as_bytes()).map(|cid| *cid.hash()).ok(),
            Some(*cid.hash())
        );
    }
}

/// Escaped bytes are what they were when they are read again.
fn check_escape(value: &[u8]) {
    let mut query = "/?arg=".to_owned();
    escape(value, &mut query);
    let (mut parts, ()) = Request::post(query).body(()).expect("escaped").into_parts();
    let params = block_on(Params::from_request_parts(&mut parts, &())).expect("escaped");
    assert_eq!(params.bytes("arg"), Some(value));
}

fn escapes_are_whole(query: &[u8]) -> bool {
    let mut after = query.split(|&byte| byte == b'%').skip(1);
    after.all(|text| text.len() >= 2 && text[..2].iter().all(u8::is_ascii_hexdigit))
}

fn check_disposition(data: &[u8]) {
    let Ok(Disposition { path, metadata }) = Disposition::parse(data) else { return };
    assert!(path.len() <= data.len());
    assert!(metadata.mtime.is_none_or(|mtime| mtime.nanos < 1_000_000_000));
}
