//! What every request passes first: POST only, no web pages, our name in the answer.
//!
//! A browser can be made to send requests to local services by any page it shows, so a request
//! that names an origin which is not allowed is refused (spec 09 §1). The caller's identity is
//! not checked here but where connections are accepted.

use axum::extract::Request;
use axum::http::header::{ALLOW, HeaderValue, ORIGIN, REFERER, SERVER, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::api::error::ApiError;
use crate::api::reply::until;
use crate::api::request::Deadline;

/// Origins of the browser extension that talks to nodes.
const COMPANION_ORIGINS: &[&str] = &[
    "chrome-extension://nibjojkomfdiaoajekhjakgkdhaomnch",
    "chrome-extension://hjoieblefckbooibpepigmacodalfndh",
];

/// Hosts whose pages may talk to this node.
const LOCAL_HOSTS: &[&str] = &["127.0.0.1", "[::1]", "localhost"];

const SERVER_NAME: HeaderValue =
    HeaderValue::from_static(concat!("cidfs/", env!("CARGO_PKG_VERSION")));

/// Passes a request on, or refuses it.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = if request.method() != Method::POST {
        let mut refused = StatusCode::METHOD_NOT_ALLOWED.into_response();
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("OPTIONS, POST"));
        refused
    } else if let Some(reason) = foreign(request.headers()) {
        ApiError::forbidden(reason).into_response()
    } else {
        in_time(request, next).await.unwrap_or_else(ApiError::into_response)
    };
    response.headers_mut().insert(SERVER, SERVER_NAME);
    response
}

/// Runs a request until the client stops waiting; a stream that has begun watches the time itself.
async fn in_time(mut request: Request, next: Next) -> Result<Response, ApiError> {
    let deadline = Deadline::start(request.uri().query().unwrap_or_default())?;
    request.extensions_mut().insert(deadline);
    until(deadline, async { Ok(next.run(request).await) }).await
}

/// Returns why a request looks as if a web page had sent it.
fn foreign(headers: &HeaderMap) -> Option<String> {
    let get = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let named = [get(ORIGIN), get(REFERER)];
    for origin in named.into_iter().flatten() {
        if !is_local(origin) {
            return Some(format!("requests from {origin} are not allowed"));
        }
    }
    let agent = get(USER_AGENT).unwrap_or_default();
    let browser = agent.starts_with("Mozilla") && !agent.contains("Electron");
    (browser && named == [None, None])
        .then(|| "browsers must send an Origin or Referer that is allowed".to_owned())
}

fn is_local(origin: &str) -> bool {
    if COMPANION_ORIGINS.iter().any(|known| origin.trim_end_matches('/') == *known) {
        return true;
    }
    let Some(rest) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
    else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    LOCAL_HOSTS.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: HeaderName, value: &'static str, allowed: bool) {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert_eq!(foreign(&headers).is_none(), allowed, "{value}");
    }

    #[test]
    fn pages_of_others_are_refused() {
        check(ORIGIN, "http://127.0.0.1:5001", true);
        check(ORIGIN, "https://localhost", true);
        check(ORIGIN, "http://[::1]:5001", true);
        check(ORIGIN, "chrome-extension://nibjojkomfdiaoajekhjakgkdhaomnch", true);
        check(REFERER, "http://localhost:5001/webui/", true);
        check(ORIGIN, "https://evil.example", false);
        check(ORIGIN, "http://localhost.evil.example", false);
        check(ORIGIN, "http://user@evil.example:80", false);
        check(ORIGIN, "http://localhost:80@evil.example", false);
        check(ORIGIN, "null", false);
        check(REFERER, "https://evil.example/localhost", false);
        check(USER_AGENT, "Mozilla/5.0 (X11)", false);
        check(USER_AGENT, "Mozilla/5.0 Electron/1", true);
        check(USER_AGENT, "curl/8", true);
    }
}
