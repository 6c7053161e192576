//! dag-json (spec 02 §4): a tolerant reader, a canonical writer.
//!
//! People write this codec by hand, so spaces and any key order are read; what is written has sorted
//! keys and no spaces. `serde_json` does the text; this file adds the three rules that plain JSON
//! lacks: `{"/": …}` stands for a link or bytes, a key appears once, and a whole number is never
//! turned into a float (so one outside −2⁶³ to 2⁶⁴−1 is refused). The nesting limit is `serde_json`'s
//! own, 127 levels.

use std::fmt;

use multibase::Base;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::ipld::{Ipld, IpldError, Map, check_len};
use crate::block::cid_from_text;

/// The key of a link or of bytes.
const RESERVED_KEY: &str = "/";
const BYTES_KEY: &str = "bytes";

/// Returns the value that the text in `bytes` stands for.
///
/// # Errors
/// [`IpldError::TooBig`] above the size of a block; [`IpldError::Json`] for anything that is not
/// dag-json.
pub fn decode(bytes: &[u8]) -> Result<Ipld, IpldError> {
    check_len(bytes)?;
    let node: Node =
        serde_json::from_slice(bytes).map_err(|error| IpldError::Json(error.to_string()))?;
    check_integers(bytes)?;
    Ok(node.0)
}

/// Returns the canonical text of `value`.
///
/// # Errors
/// [`IpldError::Inexpressible`] for a float that is not finite, and for a map that would be read as a
/// link or as bytes.
pub fn encode(value: &Ipld) -> Result<Vec<u8>, IpldError> {
    let mut out = String::new();
    put_value(&mut out, value)?;
    Ok(out.into_bytes())
}

struct Node(Ipld);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Ipld;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dag-json value")
    }

    fn visit_unit<E>(self) -> Result<Ipld, E> {
        Ok(Ipld::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ipld, E> {
        Ok(Ipld::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ipld, E> {
        Ok(Ipld::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ipld, E> {
        Ok(Ipld::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Ipld, E> {
        Ok(Ipld::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ipld, E> {
        Ok(Ipld::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ipld, A::Error> {
        let mut items = Vec::new();
        while let Some(Node(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Ipld::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Ipld, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, Node(value))) = access.next_entry()? {
            entries.push((key, value));
        }
        let map = Map::new(entries).map_err(A::Error::custom)?;
        if is_reserved(&map) { special(&map).map_err(A::Error::custom) } else { Ok(Ipld::Map(map)) }
    }
}

/// Tells whether a map has the form of a link (`{"/":"…"}`) or of bytes (`{"/":{"bytes":"…"}}`),
/// whatever else it holds. Other uses of the key "/" are plain data.
fn is_reserved(map: &Map) -> bool {
    match map.get(RESERVED_KEY) {
        Some(Ipld::String(_)) => true,
        Some(Ipld::Map(inner)) => matches!(inner.get(BYTES_KEY), Some(Ipld::String(_))),
        _ => false,
    }
}

/// Returns the link or the bytes for which a reserved map stands.
fn special(map: &Map) -> Result<Ipld, String> {
    let alone = map.len() == 1;
    match map.get(RESERVED_KEY) {
        Some(Ipld::String(text)) if alone => {
            cid_from_text(text).map(Ipld::from).map_err(|error| error.to_string())
        }
        Some(Ipld::Map(inner)) if alone && inner.len() == 1 => match inner.get(BYTES_KEY) {
            Some(Ipld::String(text)) => Base::Base64
                .decode(text)
                .map(Ipld::Bytes)
                .map_err(|_| "bytes that are not base64 without padding".to_owned()),
            _ => Err("bytes that are no text".to_owned()),
        },
        _ => Err("a link or bytes with other keys beside".to_owned()),
    }
}

/// Refuses whole numbers that do not fit: `serde_json` hands those over as floats, and only the text
/// still shows the difference. The text is known to be JSON here.
fn check_integers(json: &[u8]) -> Result<(), IpldError> {
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at += string_len(&json[at..]),
            b'-' | b'0'..=b'9' => {
                let number = &json[at..at + number_len(&json[at..])];
                check_number(number)?;
                at += number.len();
            }
            _ => at += 1,
        }
    }
    Ok(())
}

fn string_len(json: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match json.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return json.len(),
        }
    }
}

fn number_len(json: &[u8]) -> usize {
    let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    json.iter().position(|byte| !in_number(byte)).unwrap_or(json.len())
}

fn check_number(number: &[u8]) -> Result<(), IpldError> {
    let text = String::from_utf8_lossy(number);
    let is_float = text.contains(['.', 'e', 'E']);
    let fits = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
    if is_float || (fits && text != "-0") {
        return Ok(());
    }
    let shown: String = text.chars().take(40).collect();
    Err(IpldError::Json(format!("the integer {shown} is outside −2⁶³ to 2⁶⁴−1")))
}

fn put_value(out: &mut String, value: &Ipld) -> Result<(), IpldError> {
    match value {
        Ipld::Null => out.push_str("null"),
        Ipld::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Ipld::Integer(value) => out.push_str(&value.to_string()),
        Ipld::Float(value) => put_float(out, *value)?,
        Ipld::String(text) => put_string(out, text),
        Ipld::Bytes(bytes) => {
            out.push_str(r#"{"/":{"bytes":""#);
            out.push_str(&Base::Base64.encode(bytes));
            out.push_str(r#""}}"#);
        }
        Ipld::List(items) => put_list(out, items)?,
        Ipld::Map(map) => put_map(out, map)?,
        Ipld::Link(cid) => {
            out.push_str(r#"{"/":""#);
            out.push_str(&cid.to_string());
            out.push_str(r#""}"#);
        }
    }
    Ok(())
}

fn put_list(out: &mut String, items: &[Ipld]) -> Result<(), IpldError> {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        put_value(out, item)?;
    }
    out.push(']');
    Ok(())
}

fn put_map(out: &mut String, map: &Map) -> Result<(), IpldError> {
    if is_reserved(map) {
        return Err(IpldError::Inexpressible("a map that dag-json reads as a link or as bytes"));
    }
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    out.push('{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        put_string(out, key);
        out.push(':');
        put_value(out, value)?;
    }
    out.push('}');
    Ok(())
}

fn put_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Writes the shortest digits that read back as the same float, always with a decimal point: it is
/// what tells a float from an integer.
fn put_float(out: &mut String, value: f64) -> Result<(), IpldError> {
    let Some(number) = serde_json::Number::from_f64(value) else {
        return Err(IpldError::Inexpressible("a float that is not finite"));
    };
    let text = number.to_string();
    match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => {
            out.extend([digits, ".0e", exponent]);
        }
        _ => out.push_str(&text),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_encodes_to_itself() {
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "1.0",
            "-0.0",
            "0.1",
            "31.245270191439438",
            "1.0e+300",
            "2.2250738585072014e-308",
            r#""a\"\\\n\u0001ü/""#,
            r#"{"":1,"a":2,"aa":3,"b":[null]}"#,
            r#"{"/":"bafkqaaa"}"#,
            r#"{"/":"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"}"#,
            r#"{"/":{"bytes":""}}"#,
            r#"{"/":{"bytes":"CAE"}}"#,
            r#"{"/":1}"#,
            r#"{"/":{"/":"bafkqaaa"}}"#,
            r#"{"/":{"bytes":1}}"#,
            r#"{"/":{"/":{"bytes":"CAE"}},"a":0}"#,
            r#"{"Data":{"/":{"bytes":"CAE"}},"Links":[{"Hash":{"/":"bafkqaaa"},"Name":"x","Tsize":4}]}"#,
        ] {
            let value = decode(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(encode(&value).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn other_spellings_are_read_and_written_canonically() {
        let check = |text: &str, canonical: &str| {
            let value = decode(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(encode(&value).unwrap()).unwrap(), canonical);
        };
        check(" { \"b\" : 1 , \"a\" : [ 1 , 2 ] }\n", r#"{"a":[1,2],"b":1}"#);
        check(r#""\u00fc\/""#, r#""ü/""#);
        check("1e2", "100.0");
        check("1E30", "1.0e+30");
        check("1.50", "1.5");
        check(
            r#"{"/":"zdj7Wd8AMwqnhJGQCbFxBVodGSBG84TM7Hs1rcJuQMwTyfEDS"}"#,
            r#"{"/":"bafybeidskjjd4zmr7oh6ku6wp72vvbxyibcli2r6if3ocdcy7jjjusvl2u"}"#,
        );
    }

    #[test]
    fn what_is_no_dag_json_is_refused() {
        for text in [
            "",
            "nul",
            "[1,]",
            "{\"a\":1,\"a\":2}",
            "1 2",
            "NaN",
            "-0",
            "01",
            "18446744073709551616",
            "[-9223372036854775809]",
            "{\"\\\"\":123456789012345678901234567890}",
            "1e999",
            "\"\\ud800\"",
            "\"\u{1}\"",
            r#"{"/":"x"}"#,
            r#"{"/":"bafkqaaa","a":1}"#,
            r#"{"!":1,"/":"bafkqaaa"}"#,
            r#"{"/":{"bytes":"CAE="}}"#,
            r#"{"/":{"bytes":"CAF"}}"#,
            r#"{"/":{"bytes":"CA_-"}}"#,
            r#"{"/":{"bytes":"CAE"},"a":1}"#,
            r#"{"/":{"bytes":"CAE","a":1}}"#,
        ] {
            assert!(matches!(decode(text.as_bytes()), Err(IpldError::Json(_))), "{text}");
        }
        assert!(decode(b"\"\xff\"").is_err());
        assert!(decode(&[b'['; 1000]).is_err(), "nested too deep");
        let over = vec![b' '; crate::block::BLOCK_LEN_MAX + 1];
        assert_eq!(decode(&over), Err(IpldError::TooBig { len: over.len() }));
    }

    #[test]
    fn what_would_be_read_as_something_else_is_not_written() {
        let map = |key: &str, value| Ipld::Map(Map::new(vec![(key.to_owned(), value)]).unwrap());
        for value in [
            map("/", Ipld::String("bafkqaaa".to_owned())),
            map("/", map("bytes", Ipld::String("CAE".to_owned()))),
            Ipld::Float(f64::NAN),
            Ipld::Float(f64::NEG_INFINITY),
        ] {
            assert!(matches!(encode(&value), Err(IpldError::Inexpressible(_))), "{value:?}");
        }
    }
}
