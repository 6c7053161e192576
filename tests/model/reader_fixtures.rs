//! Real archives of other implementations against the tables beside them, made by another reader.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cidfs::block::{Block, Cid, cid_from_text, codecs};
use cidfs::codec::car::CarReader;
use cidfs::dag::{Dag, DagError, DagLimits};
use cidfs::exchange::Network;
use cidfs::testkit::fixtures::shared_fixtures;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::{
    ContentPath, Cookie, FileType, UnixfsError, list, read, read_link, resolve, stat, walk,
};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;
use sha2::Digest as _;

/// Everything is here or known to be missing, so nothing may wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here may wait")
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    multibase::Base::Base16Lower.encode(sha2::Sha256::digest(bytes))
}

fn open(archive: &Path) -> Dag {
    let sections = CarReader::new(std::fs::File::open(archive).unwrap()).unwrap();
    let blocks = sections.map(|section| {
        let section = section.unwrap();
        Block::verify(section.cid, section.data).unwrap()
    });
    Dag::new(Arc::new(TestStore::new(blocks)), Arc::new(Network::default()), DagLimits::default())
}

fn names(dag: &Dag, dir: &Cid) -> Vec<String> {
    let (mut names, mut from) = (Vec::new(), Cookie::START);
    loop {
        let piece = now(list(dag, dir, from, 100)).unwrap();
        let Some((last, _)) = piece.last() else { return names };
        from = *last;
        names.extend(
            piece.into_iter().map(|(_, entry)| String::from_utf8(entry.name.to_vec()).unwrap()),
        );
    }
}

/// Reads a whole file in pieces that fall on no boundary of its blocks.
fn content(dag: &Dag, cid: &Cid) -> Result<Vec<u8>, UnixfsError> {
    let mut content = Vec::new();
    loop {
        let piece = now(read(dag, cid, content.len() as u64, 777))?;
        if piece.is_empty() {
            return Ok(content);
        }
        content.extend(&piece);
    }
}

fn check_entry(dag: &Dag, root: &str, entry: &Value) {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let path = format!("/ipfs/{root}{}", text("path"));
    let hidden = entry["hidden"].as_bool().unwrap_or(false);
    let resolved = path.parse::<ContentPath>().map(|path| now(resolve(dag, &path)));
    let cid = match resolved {
        Ok(Ok(resolved)) if !hidden => resolved.cid,
        Ok(Err(UnixfsError::NotFound { .. })) if hidden => return,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(cid, cid_from_text(text("cid")).unwrap(), "{path}");
    let stat = now(stat(dag, &cid));
    if text("kind") == "MISSING" {
        let offline = matches!(stat, Err(UnixfsError::Dag(DagError::Offline { .. })));
        assert!(offline, "{path}: {stat:?}");
        return;
    }
    let stat = stat.unwrap();
    let mode = stat.metadata.mode.map(|mode| format!("0o{mode:o}"));
    assert_eq!(mode.as_deref(), entry["mode"].as_str(), "{path}");
    let mtime = stat.metadata.mtime.map(|time| serde_json::json!([time.seconds, time.nanos]));
    assert_eq!(mtime.as_ref().unwrap_or(&Value::Null), &entry["mtime"], "{path}");
    match text("kind") {
        "dir" | "hamt" => {
            assert_eq!(stat.kind, FileType::Directory, "{path}");
            assert_eq!(names(dag, &cid).len() as u64, entry["entries"], "{path}");
        }
        "symlink" => {
            assert_eq!(stat.kind, FileType::Symlink, "{path}");
            assert_eq!(now(read_link(dag, &cid)).unwrap(), text("target"), "{path}");
        }
        "file" => {
            assert_eq!(
                (stat.kind, stat.file_len),
                (FileType::File, entry["size"].as_u64().unwrap())
            );
            match (content(dag, &cid), entry["sha256"].as_str()) {
                (Ok(content), Some(hash)) => assert_eq!(hex(content), hash, "{path}"),
                (Err(UnixfsError::Dag(DagError::Offline { cid })), None) => {
                    assert!(text("content").ends_with(&cid.to_string()), "{path}");
                }
                (other, _) => panic!("{path}: {other:?}"),
            }
        }
        kind => {
            assert!(kind.starts_with("codec"), "{path}: {kind}");
            assert_eq!(
                (stat.kind, stat.file_len),
                (FileType::File, entry["block_len"].as_u64().unwrap())
            );
            assert_eq!(content(dag, &cid).unwrap().len() as u64, entry["block_len"], "{path}");
        }
    }
}

fn tables(folder: &Path) -> Vec<PathBuf> {
    let mut tables = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(".expected.json") {
                tables.push(path);
            }
        }
    }
    tables
}

fn archive(table: &Path) -> PathBuf {
    table.with_file_name(
        table.file_name().unwrap().to_string_lossy().replace(".expected.json", ".car"),
    )
}

#[test]
fn archives_read_as_their_tables_say() {
    let Some(folder) = shared_fixtures() else { return };
    let tables = tables(&folder);
    assert!(tables.len() >= 20, "{} tables", tables.len());
    for table in tables {
        let dag = open(&archive(&table));
        let expected: Value = serde_json::from_slice(&std::fs::read(&table).unwrap()).unwrap();
        for root in expected["roots"].as_array().unwrap() {
            let cid = root["root"].as_str().unwrap();
            for entry in root["entries"].as_array().unwrap() {
                check_entry(&dag, cid, entry);
            }
            if let Some(all) = root["all_paths_sha256"].as_str() {
                let mut names = names(&dag, &cid_from_text(cid).unwrap());
                names.sort_unstable();
                let lines: Vec<String> = names.iter().map(|name| format!("/{name}\n")).collect();
                assert_eq!(hex(lines.concat()), all, "{}", table.display());
            }
        }
    }
}

/// Bytes 0–1023 and 2048–3071 are here, those between are not.
#[test]
fn a_missing_block_costs_its_own_bytes_only() {
    let Some(folder) = shared_fixtures() else { return };
    let name = "trustless_gateway_car/file-3k-and-3-blocks-missing-block.car";
    let dag = open(&folder.join("gateway-conformance").join(name));
    let cid = cid_from_text("QmYhmPjhFjYFyaoiuNzYv8WGavpSRDwdHWe5B4M5du5Rtk").unwrap();
    let at = |offset, len| now(read(&dag, &cid, offset, len));
    assert_eq!(at(0, 1024).unwrap().len(), 1024);
    assert_eq!(at(2048, 4096).unwrap().len(), 1024);
    for (offset, len) in [(1024, 1), (2047, 1), (1000, 100), (0, 3072)] {
        let error = at(offset, len).unwrap_err();
        assert!(matches!(error, UnixfsError::Dag(DagError::Offline { .. })), "{error:?}");
    }
}

#[test]
fn paths_go_on_through_cbor_and_links() {
    let Some(folder) = shared_fixtures() else { return };
    let name = "path_gateway_dag/dag-cbor-traversal.car";
    let dag = open(&folder.join("gateway-conformance").join(name));
    let root = "bafyreibs4utpgbn7uqegmd2goqz4bkyflre2ek2iwv743fhvylwi4zeeim";
    let at = |path: &str| {
        let path: ContentPath = format!("{root}{path}").parse().unwrap();
        now(resolve(&dag, &path)).map(|found| (found.cid.codec(), found.remainder.len()))
    };
    let visits = now(walk(&dag, cid_from_text(root).unwrap()).count());
    assert!(visits > 1, "{visits} blocks below the root");
    assert_eq!(at("").unwrap(), (codecs::DAG_CBOR, 0));
    assert_eq!(at("/foo").unwrap(), (codecs::DAG_CBOR, 1));
    assert!(matches!(at("/nothing"), Err(UnixfsError::NotFound { .. })));
}
