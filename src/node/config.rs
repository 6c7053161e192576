//! `config.toml` of a repository: typed, complete, every key known by name.
//!
//! One text, [`TEMPLATE`], is at once the file that `init` writes, the defaults, the list of known
//! keys and their types: what a user's file leaves out comes from it, what it does not have is
//! refused. Changing a value edits the user's own text and keeps comments and order.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::exchange::{Multiaddr, Serve};
use crate::node::files::replace;
use crate::node::size::{CacheMax, byte_size};
use crate::node::values;

/// The file that `init` writes, and every default.
pub const TEMPLATE: &str = include_str!("default.toml");

/// Name of the file in the repository.
pub const FILE_NAME: &str = "config.toml";

/// Least likeness (1 = equal) at which another key is suggested; lower ones are guesses.
const LIKENESS_MIN: f64 = 0.75;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A key that does not exist.
    #[error("unknown key \"{key}\" in the configuration{}", suggest(.suggestion.as_deref()))]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The most similar key that exists.
        suggestion: Option<String>,
    },
    /// A value of another type than the key's.
    #[error("\"{key}\" takes {expected}, not {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A value that is no use.
    #[error("\"{key}\": {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
}

fn suggest(key: Option<&str>) -> String {
    key.map(|key| format!(" (did you mean \"{key}\"?)")).unwrap_or_default()
}

/// A complete, checked configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Blocks on this disk and in memory.
    pub store: StoreConfig,
    /// How files become blocks.
    pub import: ImportConfig,
    /// The mounts of `cidfs mount`.
    pub mount: MountConfig,
    /// Other nodes.
    pub network: NetworkConfig,
    /// The control socket.
    pub api: ApiConfig,
    /// The daemon's log.
    pub log: LogConfig,
    #[serde(skip)]
    table: Table,
}

/// Blocks on this disk and in memory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Memory for decoded nodes, in bytes.
    #[serde(deserialize_with = "byte_size")]
    pub node_cache: usize,
    /// Disk for blocks, pinned ones too.
    pub cache_max_bytes: CacheMax,
    /// Shortest file in bytes that lies in the store as one file.
    #[serde(deserialize_with = "byte_size")]
    pub assemble_min_bytes: u64,
    /// How fast packs are read to find damage, in bytes per second; 0 = never.
    #[serde(deserialize_with = "byte_size")]
    pub scrub_bytes_per_s: u64,
}

/// How files become blocks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// Name of the profile.
    pub profile: String,
    /// Chunker instead of the profile's; empty for none.
    pub chunker: String,
    /// Hash function instead of the profile's; empty for none.
    pub hash: String,
    /// Whether permissions are kept.
    pub preserve_mode: bool,
    /// Whether modification times are kept.
    pub preserve_mtime: bool,
}

/// The mounts of `cidfs mount`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountConfig {
    /// Where `/ipfs` is shown.
    pub ipfs: PathBuf,
    /// Options as after `-o`.
    pub options: String,
    /// Memory for what all mounts fetch ahead of readers, in bytes.
    #[serde(deserialize_with = "byte_size")]
    pub fetch_ahead_bytes: u64,
}

/// Other nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Whom the node talks to.
    pub preset: Preset,
    /// Networks that a site reaches beside the local one.
    pub site: Vec<IpNet>,
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Peers that it stays connected to.
    pub peers: Vec<Multiaddr>,
    /// Where it begins to look for others in the wide network.
    pub bootstrap: Vec<Multiaddr>,
    /// Who may have what is here.
    pub serve: Serving,
    /// Bytes a second to peers; 0 = as many as there can be.
    #[serde(deserialize_with = "byte_size")]
    pub rate_up: u64,
    /// Bytes a second from peers; 0 = as many as there can be.
    #[serde(deserialize_with = "byte_size")]
    pub rate_down: u64,
    /// Whether it gets through to others, and they to it, where a router is in between.
    pub hole_punching: Switch,
    /// Whether it asks the router to let calls in.
    pub port_mapping: Switch,
    /// Connections at one time.
    pub connections: u32,
}

/// Who may have what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serving {
    /// Every peer.
    All,
    /// Every peer, but only what is pinned.
    Announced,
    /// Peers on the local network.
    Lan,
    /// Nobody.
    None,
}

impl From<Serving> for Serve {
    fn from(serving: Serving) -> Self {
        match serving {
            Serving::All | Serving::Announced => Self::All,
            Serving::Lan => Self::Lan,
            Serving::None => Self::Nobody,
        }
    }
}

/// Whom a node talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Everybody.
    Public,
    /// Peers that it was told, and those on the networks of its site.
    Site,
    /// Peers that it was told, and those on the local network.
    Lan,
    /// Peers that it was told, and those who call it.
    PeersOnly,
    /// Nobody.
    Offline,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// As the preset says.
    Auto,
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    /// Tells whether it is done, where the preset says `otherwise`.
    pub fn is_on(self, otherwise: bool) -> bool {
        match self {
            Self::Auto => otherwise,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// The control socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Requests served at once.
    pub connections: usize,
}

/// The daemon's log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Filter of `tracing`.
    pub level: String,
    /// JSON instead of text.
    pub json: bool,
}

impl Config {
    /// Reads the configuration of the repository at `repo`.
    ///
    /// # Errors
    /// What is wrong with the file, by key.
    pub fn load(repo: &Path) -> Result<Self, ConfigError> {
        let path = repo.join(FILE_NAME);
        Self::parse(&read(&path)?, &path)
    }

    /// Parses a configuration; `path` is only for messages.
    ///
    /// # Errors
    /// What is wrong with it, by key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let own: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        let mut table = template();
        merge(&mut table, own, "")?;
        let mut config: Self =
            Value::Table(table.clone()).try_into().map_err(|error: toml::de::Error| {
                let message = error.to_string().trim_end().replace('\n', " ");
                ConfigError::Syntax { path: path.to_owned(), message }
            })?;
        config.table = table;
        values::check(&config)?;
        Ok(config)
    }

    /// Returns the value of a key, or of a section.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn get(&self, key: &str) -> Result<Json, ConfigError> {
        let found = lookup(&self.table, key).ok_or_else(|| unknown(key))?;
        Ok(to_json(found))
    }

    /// Returns all values.
    pub fn show(&self) -> Json {
        to_json(&Value::Table(self.table.clone()))
    }
}

/// Writes the configuration of a new repository.
///
/// # Errors
/// When the file cannot be written.
pub fn create(repo: &Path) -> Result<(), ConfigError> {
    write(&repo.join(FILE_NAME), TEMPLATE)
}

/// Changes one value in the file of the repository at `repo`; the rest of the text stays.
///
/// # Errors
/// When the key is unknown or the value does not fit it; the file is then as it was.
pub fn set(repo: &Path, key: &str, value: &str) -> Result<Json, ConfigError> {
    let path = repo.join(FILE_NAME);
    let (text, value) = changed(&read(&path)?, &path, key, value)?;
    write(&path, &text)?;
    Ok(value)
}

/// Checks that a new configuration can have a value.
///
/// # Errors
/// As [`set`].
pub fn check(key: &str, value: &str) -> Result<(), ConfigError> {
    changed(TEMPLATE, Path::new(FILE_NAME), key, value).map(drop)
}

/// Returns the text of a configuration with another value, and that value; `path` is only for messages.
fn changed(text: &str, path: &Path, key: &str, value: &str) -> Result<(String, Json), ConfigError> {
    let template = template();
    let value = match lookup(&template, key) {
        Some(Value::Table(_)) => {
            let found = "a section; name a key in it".to_owned();
            return Err(ConfigError::WrongType { key: key.into(), expected: "no value", found });
        }
        Some(default) => parse_like(key, default, value)?,
        None => return Err(unknown(key)),
    };
    put(text, path, key, value)
}

/// Returns what the file of the repository at `repo` has for a key that takes a list of texts.
///
/// # Errors
/// When the file cannot be used, or the key is no such list.
pub fn list(repo: &Path, key: &str) -> Result<Vec<String>, ConfigError> {
    let found = Config::load(repo)?.get(key)?;
    serde_json::from_value(found.clone()).map_err(|_| ConfigError::WrongType {
        key: key.to_owned(),
        expected: "a list",
        found: found.to_string(),
    })
}

/// Changes one list in the file of the repository at `repo`, one text a line; the rest of the text stays.
///
/// # Errors
/// When the key is unknown or the list does not fit it; the file is then as it was.
pub fn set_list(repo: &Path, key: &str, list: &[String]) -> Result<(), ConfigError> {
    let mut array = toml_edit::Array::new();
    for text in list {
        array.push_formatted(toml_edit::Value::from(text).decorated("\n    ", ""));
    }
    if !list.is_empty() {
        array.set_trailing("\n");
        array.set_trailing_comma(true);
    }
    let path = repo.join(FILE_NAME);
    let (text, _) = put(&read(&path)?, &path, key, array.into())?;
    write(&path, &text)
}

/// Returns the value that a key has unless a file says otherwise.
///
/// # Errors
/// When there is no such key.
pub fn default_value(key: &str) -> Result<Json, ConfigError> {
    lookup(&template(), key).map(to_json).ok_or_else(|| unknown(key))
}

/// Puts a value of the right type into the text of a configuration.
fn put(
    text: &str,
    path: &Path,
    key: &str,
    value: toml_edit::Value,
) -> Result<(String, Json), ConfigError> {
    // Also makes sure that the section is one.
    Config::parse(text, path)?;
    let mut document: toml_edit::DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
    let (section, name) = key.split_once('.').ok_or_else(|| unknown(key))?;
    let entry = &mut document[section][name];
    let decor = entry.as_value().map(|old| old.decor().clone());
    *entry = toml_edit::value(value);
    if let (Some(new), Some(decor)) = (entry.as_value_mut(), decor) {
        *new.decor_mut() = decor;
    }
    let text = document.to_string();
    let value = Config::parse(&text, path)?.get(key)?;
    Ok((text, value))
}

fn template() -> Table {
    TEMPLATE.parse().expect("the template is TOML: a test parses it")
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), ConfigError> {
    replace(path, text.as_bytes(), 0o666)
        .map_err(|source| ConfigError::Io { path: path.to_owned(), source })
}

/// Puts a user's values over the defaults.
fn merge(defaults: &mut Table, own: Table, prefix: &str) -> Result<(), ConfigError> {
    for (name, value) in own {
        let key = format!("{prefix}{name}");
        match (defaults.get_mut(&name), value) {
            (None, _) => return Err(unknown(&key)),
            (Some(Value::Table(defaults)), Value::Table(own)) => {
                merge(defaults, own, &format!("{key}."))?;
            }
            (Some(default), value) if default.same_type(&value) => *default = value,
            (Some(default), value) => {
                return Err(ConfigError::WrongType {
                    key,
                    expected: expected(default),
                    found: value.to_string(),
                });
            }
        }
    }
    Ok(())
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (first, rest) =
        key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let found = table.get(first)?;
    rest.map_or(Some(found), |rest| lookup(found.as_table()?, rest))
}

fn unknown(key: &str) -> ConfigError {
    let likeness = |known: &String| strsim::jaro_winkler(key, known);
    let suggestion = keys(&template(), "")
        .into_iter()
        .filter(|known| likeness(known) >= LIKENESS_MIN)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    ConfigError::UnknownKey { key: key.to_owned(), suggestion }
}

fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let below = |(name, value): (&String, &Value)| match value {
        Value::Table(section) => keys(section, &format!("{prefix}{name}.")),
        _ => vec![format!("{prefix}{name}")],
    };
    table.iter().flat_map(below).collect()
}

fn expected(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Table(_) => "a section",
        Value::Array(_) => "a list such as [\"a\", \"b\"]",
        Value::Float(_) | Value::Datetime(_) => "another type",
    }
}

fn parse_like(key: &str, default: &Value, text: &str) -> Result<toml_edit::Value, ConfigError> {
    let wrong = || ConfigError::WrongType {
        key: key.to_owned(),
        expected: expected(default),
        found: format!("\"{text}\""),
    };
    Ok(match default {
        Value::Integer(_) => text.parse::<i64>().map_err(|_| wrong())?.into(),
        Value::Boolean(_) => text.parse::<bool>().map_err(|_| wrong())?.into(),
        // As it stands in the file, or one element alone.
        Value::Array(_) if text.starts_with('[') => text.parse().map_err(|_| wrong())?,
        Value::Array(_) => toml_edit::Value::Array([text].into_iter().collect()),
        _ => text.into(),
    })
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(yes) => Json::from(*yes),
        Value::Datetime(time) => Json::from(time.to_string()),
        Value::Array(values) => values.iter().map(to_json).collect(),
        Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    fn refused(text: &str, words: &str) {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(words), "{text:?} gave {message:?}");
    }

    #[test]
    fn lists_and_words_of_the_network_are_checked() {
        let config = parse("[network]\npreset = \"lan\"\npeers = []\nserve = \"none\"").unwrap();
        assert_eq!((config.network.preset, config.network.serve), (Preset::Lan, Serving::None));
        assert_eq!((config.network.listen.len(), config.network.bootstrap.len()), (4, 7));
        refused("[network]\npreset = \"everybody\"", "everybody");
        refused("[network]\nlisten = [\"nowhere\"]", "listen");
        let relay =
            "/dns4/relay.example/tcp/1/p2p/12D3KooWJYeZyZPqfqEEVU3iisR2J4inQ7FuC8BkhRnmXCeQsiE2";
        parse(&format!("[network]\nlisten = [\"{relay}/p2p-circuit\"]")).unwrap();
        refused("[network]\nlisten = [\"/ip4/127.0.0.1\"]", "/ip4/127.0.0.1 cannot be listened at");
        refused("[network]\nlisten = \"/ip4/127.0.0.1/tcp/1\"", "a list");
        refused("[network]\nconnections = 1", "at least 8");
        refused("[network]\npreset = \"site\"", "network.site");
        refused("[network]\nsite = [\"10.0.0.1/33\"]", "site");
        refused("[network]\nrate_up = \"1KiB\"", "at least 16KiB");
        refused("[network]\nport_mapping = true", "a text");
        for key in ["peers", "bootstrap"] {
            let text = format!("[network]\n{key} = [\"/ip4/127.0.0.1/tcp/1\"]");
            refused(&text, &format!("\"network.{key}\": /ip4/127.0.0.1/tcp/1 does not end with"));
        }
    }

    #[test]
    fn the_template_is_complete_and_valid() {
        let config = parse(TEMPLATE).unwrap();
        assert_eq!(config.show(), parse("").unwrap().show());
        assert_eq!(config.store.node_cache, 64 << 20);
    }

    #[test]
    fn every_key_of_the_template_has_a_note() {
        let mut noted = false;
        for line in TEMPLATE.lines() {
            let is_key = line.contains(" = ");
            assert!(!is_key || noted, "{line}");
            noted = line.starts_with('#') || (is_key && noted);
        }
    }

    #[test]
    fn unknown_keys_are_named_with_the_likely_one() {
        refused("[mount]\nipsf = \"/x\"", "\"mount.ipsf\"");
        refused("[mount]\nipsf = \"/x\"", "did you mean \"mount.ipfs\"?");
        refused("[store]\nzzz = 1", "unknown key \"store.zzz\"");
        refused("[nonsense]\nx = 1", "unknown key \"nonsense\"");
        assert!(parse("").unwrap().get("log.levl").unwrap_err().to_string().contains("log.level"));
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_key() {
        refused("[api]\nconnections = \"many\"", "\"api.connections\" takes a whole number");
        refused("[api]\nconnections = 0", "api.connections");
        refused("[api]\nconnections = 1000000", "from 1 to 256");
        refused("[store]\nnode_cache = \"64 apples\"", "not a size");
        refused("[store]\ncache_max_bytes = \"120%\"", "no limit of disk space");
        refused("[store]\ncache_max_bytes = \"1MiB\"", "at least 64MiB");
        refused("[store]\nassemble_min_bytes = \"1KiB\"", "at least 256KiB");
        refused("[mount]\nipfs = \"ipfs\"", "absolute path");
        refused("mount = 3", "\"mount\" takes a section");
        refused("x = [", "config.toml");
    }

    #[test]
    fn setting_a_value_keeps_the_rest_of_the_text() {
        let repo = tempfile::tempdir().unwrap();
        create(repo.path()).unwrap();
        assert_eq!(set(repo.path(), "mount.ipfs", "/mnt/x").unwrap(), "/mnt/x");
        set(repo.path(), "log.json", "true").unwrap();
        let text = read(&repo.path().join(FILE_NAME)).unwrap();
        let expected = TEMPLATE
            .replace("ipfs = \"/ipfs\"", "ipfs = \"/mnt/x\"")
            .replace("json = false", "json = true");
        assert_eq!(text, expected);
        let config = Config::load(repo.path()).unwrap();
        assert_eq!(config.mount.ipfs, Path::new("/mnt/x"));
        assert!(config.log.json);
    }

    #[test]
    fn a_list_is_changed_without_a_trace_elsewhere() {
        let repo = tempfile::tempdir().unwrap();
        create(repo.path()).unwrap();
        let key = "network.bootstrap";
        let default = list(repo.path(), key).unwrap();
        assert_eq!(default_value(key).unwrap(), serde_json::json!(default));
        set_list(repo.path(), key, &default[..1]).unwrap();
        assert_eq!(list(repo.path(), key).unwrap(), default[..1]);
        set_list(repo.path(), key, &[]).unwrap();
        assert!(list(repo.path(), key).unwrap().is_empty());
        assert!(set_list(repo.path(), key, &["/ip4/127.0.0.1/tcp/1".to_owned()]).is_err());
        assert!(
            set_list(repo.path(), "log.level", &[]).is_err() && list(repo.path(), "x").is_err()
        );
        set_list(repo.path(), key, &default).unwrap();
        assert_eq!(read(&repo.path().join(FILE_NAME)).unwrap(), TEMPLATE);
    }

    #[test]
    fn a_file_that_is_wrong_already_is_told_and_left() {
        let repo = tempfile::tempdir().unwrap();
        let path = repo.path().join(FILE_NAME);
        std::fs::write(&path, "mount = 3").unwrap();
        let error = set(repo.path(), "mount.ipfs", "/mnt/x").unwrap_err().to_string();
        assert!(error.contains("\"mount\" takes a section"), "{error}");
        assert_eq!(read(&path).unwrap(), "mount = 3");
    }

    #[test]
    fn a_bad_value_leaves_the_file_as_it_was() {
        let repo = tempfile::tempdir().unwrap();
        create(repo.path()).unwrap();
        for (key, value) in
            [("log.json", "maybe"), ("api.connections", "0"), ("mount", "x"), ("nope", "1")]
        {
            assert!(set(repo.path(), key, value).is_err(), "{key}");
        }
        assert_eq!(read(&repo.path().join(FILE_NAME)).unwrap(), TEMPLATE);
    }
}
