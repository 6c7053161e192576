//! Names in JSON: text for everybody, and the bytes when the text cannot say them.

use serde::{Deserialize, Serialize};

/// A file name of any bytes. `Name` is what kubo's clients read; when that loses something,
/// `NameBytes` has the bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Name {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
}

impl Name {
    /// Returns the name of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let name = String::from_utf8_lossy(bytes);
        let is_lossy = name.as_bytes() != bytes;
        let hex = || multibase::Base::Base16Lower.encode(bytes);
        Self { name_bytes: is_lossy.then(hex), name: name.into_owned() }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let own = self.name_bytes.as_ref();
        own.and_then(|hex| multibase::Base::Base16Lower.decode(hex).ok())
            .unwrap_or_else(|| self.name.clone().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_json() {
        for bytes in [&b"plain"[..], "Peninsula Ibérica".as_bytes(), b"\xff\xfe", b""] {
            let json = serde_json::to_string(&Name::new(bytes)).unwrap();
            assert_eq!(json.contains("NameBytes"), bytes == b"\xff\xfe", "{json}");
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap().bytes(), bytes);
        }
    }
}
