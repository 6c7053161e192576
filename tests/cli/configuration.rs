//! `config.toml` and `cidfs config`.

use super::sandbox::{Sandbox, TREE, vector_tree};

#[test]
fn values_are_shown_and_changed() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.ok(&["config", "mount.ipfs"]), "/ipfs");
    assert_eq!(sandbox.ok(&["config", "mount.ipfs", "/srv/ipfs"]), "");
    assert_eq!(sandbox.ok(&["config", "mount.ipfs"]), "/srv/ipfs");
    assert_eq!(sandbox.ok(&["config", "log.json", "true"]), "");
    assert_eq!(sandbox.ok(&["config", "log"]), "json = true\nlevel = \"info\"");
    let all: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["config", "show", "--json"])).unwrap();
    assert_eq!(all["mount"]["ipfs"], "/srv/ipfs");
    assert!(sandbox.ok(&["config", "show"]).contains("store.node_cache = \"64MiB\""));
    let file = std::fs::read_to_string(sandbox.repo().join("config.toml")).unwrap();
    assert!(file.contains("# Where `cidfs mount` without arguments shows /ipfs."));
}

#[test]
fn a_change_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let check = |key, value, words: &[&str]| sandbox.fails(&["config", key, value], 1, words);
    check("mount.ipsf", "/x", &["unknown key \"mount.ipsf\"", "did you mean \"mount.ipfs\"?"]);
    check("log.json", "maybe", &["\"log.json\" takes true or false"]);
    check("mount.ipfs", "relative", &["absolute path"]);
    check("mount", "x", &["section"]);
    check("log.level", "loud", &["\"log.level\": \"loud\" is no level", "info"]);
    check("import.profile", "x", &["\"import.profile\"", "unixfs-v1-2025"]);
    check("import.chunker", "x", &["\"import.chunker\"", "size-N"]);
    check("import.hash", "x", &["\"import.hash\"", "unknown hash function \"x\""]);
    check("mount.options", "frob", &["\"mount.options\"", "frob"]);
    check("mount.options", "allow_other,timeout=xx", &["\"mount.options\"", "1s to 24h"]);
    sandbox.ok(&["config", "log.level", "warn,cidfs::fuse=debug"]);
    sandbox.fails(&["config", "nonsense"], 1, &["unknown key \"nonsense\""]);
}

#[test]
fn a_broken_file_stops_everything_with_a_sentence() {
    let sandbox = Sandbox::new();
    let check = |text: &str, words: &[&str]| {
        std::fs::write(sandbox.repo().join("config.toml"), text).unwrap();
        sandbox.fails(&["status"], 1, words);
        sandbox.fails(&["daemon"], 1, words);
    };
    check("[mount]\nipsf = \"/x\"\n", &["unknown key \"mount.ipsf\"", "mount.ipfs"]);
    check("[api]\nconnections = \"many\"\n", &["api.connections", "a whole number"]);
    check("[log]\nlevel = \"loud\"\n", &["\"log.level\"", "Hint:", "config.toml"]);
    check("[import]\nhash = \"x\"\n", &["\"import.hash\"", "Hint:"]);
    check("[mount]\noptions = \"frob\"\n", &["\"mount.options\"", "Hint: correct it"]);
    check("[mount\n", &["config.toml"]);
    std::fs::write(sandbox.repo().join("config.toml"), "").unwrap();
    sandbox.ok(&["status"]);
}

#[test]
fn the_profile_of_the_configuration_counts() {
    let sandbox = Sandbox::without_repository();
    sandbox.ok(&["init", "--preset=offline", "--profile=unixfs-v0-2015"]);
    vector_tree(&sandbox);
    let old = "QmSGuAmMcrJoUhjD2air2WUGVVJ4KCdhnXqLk6qwKN5jqN";
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), old);
    assert_eq!(sandbox.ok(&["add", "-rQ", "--profile=unixfs-v1-2025", "d"]), TREE);
}

#[test]
fn an_unknown_profile_makes_no_repository() {
    let sandbox = Sandbox::without_repository();
    sandbox.fails(&["init", "--profile=nonsense"], 2, &["no import profile"]);
    sandbox.fails(&["init", "--preset=nonsense"], 2, &["nonsense", "peers-only"]);
    assert!(!sandbox.repo().try_exists().unwrap());
}
