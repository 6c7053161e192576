//! Sizes as people write them in the configuration.

use serde::{Deserialize, Deserializer};

/// How much disk the store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMax {
    /// Parts in a hundred of what is free or taken by the store when it is opened.
    Percent(u64),
    /// So many bytes.
    Bytes(u64),
    /// As much as there is.
    Unlimited,
}

impl CacheMax {
    /// Returns the cap in bytes on a disk where so many bytes are free or taken by the store.
    pub fn bytes(self, room: u64) -> Option<u64> {
        match self {
            Self::Percent(percent) => Some(room / 100 * percent),
            Self::Bytes(bytes) => Some(bytes),
            Self::Unlimited => None,
        }
    }
}

impl<'de> Deserialize<'de> for CacheMax {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_cache_max(&text).ok_or_else(|| {
            let forms = "1% to 100%, a size in kB, MB, GB, TB, KiB, MiB, GiB or TiB, or \"none\"";
            serde::de::Error::custom(format!("\"{text}\" is no limit of disk space ({forms})"))
        })
    }
}

fn parse_cache_max(text: &str) -> Option<CacheMax> {
    if text == "none" {
        return Some(CacheMax::Unlimited);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
        return percent.map(CacheMax::Percent);
    }
    Some(CacheMax::Bytes(parse_bytes(text)?))
}

/// Reads a size in bytes.
pub(super) fn byte_size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_bytes(&text).and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(|| {
        serde::de::Error::custom(format!("\"{text}\" is not a size (try \"64MiB\" or \"1GB\")"))
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[at..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..at].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shares_sizes_or_none() {
        for (text, limit) in [
            ("90%", CacheMax::Percent(90)),
            ("20GiB", CacheMax::Bytes(20 << 30)),
            ("2 TB", CacheMax::Bytes(2_000_000_000_000)),
            ("none", CacheMax::Unlimited),
        ] {
            assert_eq!(parse_cache_max(text), Some(limit), "{text}");
        }
        for text in ["", "0%", "101%", "-1", "much", "%", "99999999999TiB"] {
            assert_eq!(parse_cache_max(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_of_the_room() {
        assert_eq!(CacheMax::Percent(90).bytes(1000), Some(900));
        assert_eq!(CacheMax::Bytes(7).bytes(1000), Some(7));
        assert_eq!(CacheMax::Unlimited.bytes(1000), None);
    }
}
