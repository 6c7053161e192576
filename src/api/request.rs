//! What a request asks for: arguments, options and the wishes that every command understands.
//!
//! Parameters are name/value pairs whose values are **bytes**: names of files need not be UTF-8.
//! They come in the query, and (so that a shell glob of thousands of paths fits) in a form body
//! of bounded length; `timeout=` counts in the query alone. Bodies with content (multipart, CAR) are none of this module's business.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::Extensions;
use axum::http::header::{CONTENT_TYPE, TE};
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, Limited};
use multibase::Base;
use tokio::time::{Instant, timeout_at};

use crate::api::error::ApiError;
use crate::block::{Cid, cid_from_text, encode_base, parse_base};

/// Media type of a body that carries parameters.
pub const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// Longest form body in bytes: about forty thousand paths of a hundred bytes, which is what the
/// kernel lets a shell pass to one command (`ARG_MAX` of 2 MiB) with every byte escaped.
pub const FORM_LEN_MAX: usize = 8 * 1024 * 1024;

/// Longest time that a client may ask to wait: a deadline further away could overflow the clock.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365);

/// The parameters of one request.
#[derive(Debug, Clone)]
pub struct Params {
    pairs: Vec<(String, Vec<u8>)>,
    deadline: Deadline,
    trailers: bool,
}

impl Params {
    /// Returns the positional arguments.
    pub fn args(&self) -> impl Iterator<Item = &[u8]> {
        self.all("arg")
    }

    /// Returns every value given under `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| &value[..])
    }

    /// Returns the first positional argument.
    ///
    /// # Errors
    /// When there is none, in the words that kubo's clients know.
    pub fn arg(&self, what: &str) -> Result<&[u8], ApiError> {
        self.args()
            .next()
            .ok_or_else(|| ApiError::client(format!("argument \"{what}\" is required")))
    }

    /// Returns the positional arguments, at least one.
    ///
    /// # Errors
    /// When there is none.
    pub fn args_some(&self, what: &str) -> Result<Vec<&[u8]>, ApiError> {
        self.arg(what)?;
        Ok(self.args().collect())
    }

    /// Returns the last value given under `name`, as bytes.
    pub fn bytes<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).last()
    }

    /// Returns the last value given under `name`, as text.
    ///
    /// # Errors
    /// When the value is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.pairs.iter().rev().find(|(key, _)| key == name) else {
            return Ok(None);
        };
        str::from_utf8(&value.1)
            .map(Some)
            .map_err(|_| ApiError::client(format!("option \"{name}\" is not UTF-8")))
    }

    /// Returns a switch, in the words of Go's `ParseBool` as kubo takes them; `--name` alone (an
    /// empty value) switches it on.
    ///
    /// # Errors
    /// When the value is neither true nor false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name)? {
            None => Ok(None),
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(ApiError::client(format!(
                "option \"{name}\" takes true or false, not \"{other}\""
            ))),
        }
    }

    /// Returns whether a switch is on; off when it is not given.
    ///
    /// # Errors
    /// As [`Params::flag`].
    pub fn is_on(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.flag(name)?.unwrap_or(false))
    }

    /// Returns a value of any type that parses from text.
    ///
    /// # Errors
    /// When it does not parse, with the reason.
    pub fn parse<T>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.text(name)?
            .map(|text| {
                text.parse().map_err(|error| {
                    ApiError::client(format!("option \"{name}\": \"{text}\": {error}"))
                })
            })
            .transpose()
    }

    /// Returns when the client stops waiting (`timeout=`).
    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Tells whether the client reads trailers, where a late error goes.
    pub fn trailers(&self) -> bool {
        self.trailers
    }

    /// Returns the writer of CIDs that the client asked for (`cid-base=`).
    ///
    /// # Errors
    /// When the base is unknown.
    pub fn encoder(&self) -> Result<CidEncoder, ApiError> {
        let base = self.text("cid-base")?.map(parse_base).transpose();
        let upgrade = self.is_on("upgrade-cidv0-in-output")?;
        Ok(CidEncoder { base: base.map_err(|error| ApiError::client(error.to_string()))?, upgrade })
    }

    fn of_parts(parts: &Parts) -> Result<Self, ApiError> {
        let pairs = parse_form(parts.uri.query().unwrap_or_default().as_bytes())?;
        let deadline = Deadline::of(&parts.extensions);
        let accepts = |value: &axum::http::HeaderValue| {
            value.to_str().is_ok_and(|te| te.split(',').any(|token| token.trim() == "trailers"))
        };
        let trailers = parts.headers.get_all(TE).iter().any(accepts);
        Ok(Self { pairs, deadline, trailers })
    }
}

/// When the client stops waiting; set on every request by the guard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// That of a client which waits for ever.
    const NONE: Self = Self(None);

    /// Starts the clock of a request whose query says `timeout=`.
    pub(super) fn start(query: &str) -> Result<Self, ApiError> {
        let pairs = parse_form(query.as_bytes())?;
        let params = Params { pairs, deadline: Self::NONE, trailers: false };
        Ok(Self(match params.text("timeout")? {
            None | Some("") => None,
            Some(text) => Some(Instant::now() + parse_duration(text)?),
        }))
    }

    /// Returns that of a request.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self::NONE)
    }

    /// Waits for `work` until the client stops waiting; `None` if it does.
    pub(super) async fn limit<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            None => Some(work.await),
            Some(end) => timeout_at(end, work).await.ok(),
        }
    }

    /// Tells whether the client has stopped waiting.
    pub(super) fn is_over(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }
}

/// Parameters of the query alone, for a command whose body is its content.
impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of_parts(parts)
    }
}

/// Parameters of the query and, if it is a form, of the body.
#[derive(Debug)]
pub struct Form(pub Params);

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let mut params = Params::of_parts(&parts)?;
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_some_and(|value| value.eq_ignore_ascii_case(FORM_TYPE)) {
            params.pairs.extend(parse_form(&read_form(body).await?)?);
        }
        Ok(Self(params))
    }
}

async fn read_form(body: Body) -> Result<bytes::Bytes, ApiError> {
    let read = Limited::new(body, FORM_LEN_MAX).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|error| {
        ApiError::client(format!("the parameters in the body (at most 8 MiB): {error}"))
    })
}

/// How CIDs are written in the answer.
#[derive(Debug, Clone, Copy)]
pub struct CidEncoder {
    base: Option<Base>,
    upgrade: bool,
}

impl CidEncoder {
    /// Writes a CID.
    pub fn encode(&self, cid: &Cid) -> String {
        let is_upgraded = self.upgrade && cid.version() == cid::Version::V0;
        let cid = if is_upgraded { Cid::new_v1(cid.codec(), *cid.hash()) } else { *cid };
        self.base.map_or_else(|| cid.to_string(), |base| encode_base(&cid, base))
    }
}

/// Parses a CID argument: bare, or as `/ipfs/<cid>` without a path below it.
///
/// # Errors
/// What is wrong with it.
pub fn parse_cid(arg: &[u8]) -> Result<Cid, ApiError> {
    let text = String::from_utf8_lossy(arg);
    let bare = text.strip_prefix("/ipfs/").unwrap_or(&text);
    cid_from_text(bare.trim_end_matches('/')).map_err(|error| ApiError::client(error.to_string()))
}

/// Parses a duration as Go's clients write it: `30s`, `1m30s`, `250ms`, `2h`.
///
/// # Errors
/// When a unit is missing or unknown.
pub fn parse_duration(text: &str) -> Result<Duration, ApiError> {
    duration_of(text)
        .ok_or_else(|| ApiError::client(format!("\"{text}\" is not a duration (try 30s or 1m30s)")))
}

fn duration_of(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit_seconds = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * unit_seconds;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total.min(DURATION_MAX))
}

fn parse_form(form: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ApiError> {
    form.split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
            let name = String::from_utf8(unescape(&pair[..at])?)
                .map_err(|_| ApiError::client("the name of an option is not UTF-8"))?;
            Ok((name, unescape(pair.get(at + 1..).unwrap_or_default())?))
        })
        .collect()
}

pub(super) fn unescape(text: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = rest.split_off(..2).and_then(|two| byte_of_hex(two.try_into().ok()?));
                digits.ok_or_else(|| {
                    ApiError::client("a \"%\" without two hex digits in the parameters")
                })?
            }
            other => other,
        });
    }
    Ok(bytes)
}

/// Parses two hex digits; the standard parsers take a sign too.
fn byte_of_hex(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

/// Escapes bytes for a query or form.
pub fn escape(bytes: &[u8], into: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            into.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            into.push('%');
            into.push(char::from(DIGITS[usize::from(byte >> 4)]));
            into.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let request = Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
        Params::of_parts(&request.into_parts().0).unwrap()
    }

    #[test]
    fn any_bytes_survive_escaping() {
        let all: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        escape(&all, &mut text);
        assert_eq!(params(&format!("arg={text}")).args().collect::<Vec<_>>(), [&all[..]]);
    }

    #[test]
    fn options_are_typed() {
        let params = params("a=true&b=false&c&n=12&bad=x&arg=1&arg=two+words&py=True&no=F");
        assert_eq!(params.flag("a").unwrap(), Some(true));
        assert_eq!(params.flag("b").unwrap(), Some(false));
        assert_eq!(params.flag("c").unwrap(), Some(true));
        assert_eq!(params.flag("d").unwrap(), None);
        assert_eq!(params.flag("py").unwrap(), Some(true));
        assert_eq!(params.flag("no").unwrap(), Some(false));
        assert!(params.flag("bad").is_err());
        assert_eq!(params.parse::<u32>("n").unwrap(), Some(12));
        assert!(params.parse::<u32>("bad").is_err());
        assert_eq!(params.args_some("x").unwrap(), [&b"1"[..], b"two words"]);
    }

    #[test]
    fn malformed_escapes_are_refused() {
        for form in ["a=%", "a=%4", "a=%zz", "a=%+7", "%ff=1"] {
            assert!(parse_form(form.as_bytes()).is_err(), "{form}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        let check = |text, ms| assert_eq!(duration_of(text), Some(Duration::from_millis(ms)));
        check("30s", 30_000);
        check("1m30s", 90_000);
        check("1.5h", 5_400_000);
        check("250ms", 250);
        for bad in ["", "30", "s", "30x", "-1s", "1e9s", "..s"] {
            assert_eq!(duration_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn cids_are_written_in_the_base_asked_for() {
        let cid = parse_cid(b"/ipfs/bafkqaaa").unwrap();
        let encoder = params("cid-base=base16").encoder().unwrap();
        assert_eq!(encoder.encode(&cid), "f01550000");
        assert!(params("cid-base=base99").encoder().is_err());
        let v0 = parse_cid(b"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn").unwrap();
        let upgrade = params("upgrade-cidv0-in-output=true").encoder().unwrap();
        assert!(upgrade.encode(&v0).starts_with("bafybeicz"));
    }
}
