//! dag-pb, dag-cbor and dag-json against the codec fixtures of the IPLD project and the tables of
//! spec 02 and spec 12.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cidfs::block::{Block, Cid, HashFn, cid_from_text, codecs};
use cidfs::codec::dag_pb::{self, PbNode};
use cidfs::codec::ipld::Ipld;
use cidfs::codec::node::Node;
use cidfs::codec::{dag_cbor, dag_json};
use cidfs::testkit::fixtures::shared_fixtures;

fn unhex(hex: &str) -> Bytes {
    multibase::Base::Base16Lower.decode(hex).unwrap().into()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Reads a fixture whose name is the CID of its bytes.
fn named_block(path: &Path) -> Block {
    let cid = cid_from_text(path.file_stem().unwrap().to_str().unwrap()).unwrap();
    Block::verify(cid, std::fs::read(path).unwrap().into()).unwrap()
}

fn reencode_pb(bytes: &Bytes) -> Vec<u8> {
    let node = PbNode::decode(bytes.clone()).unwrap();
    let links: Vec<_> = node.links().collect();
    dag_pb::encode(&links, node.data().as_deref())
}

#[test]
fn every_fixture_encodes_to_its_own_cid_and_codecs_agree() {
    let Some(shared) = shared_fixtures() else { return };
    let mut counts = [0; 3];
    for folder in entries(&shared.join("codec-fixtures/fixtures")) {
        let mut values: Vec<Ipld> = Vec::new();
        for path in entries(&folder) {
            let block = named_block(&path);
            let data = block.data();
            match block.cid().codec() {
                codecs::DAG_PB => {
                    counts[0] += 1;
                    assert_eq!(reencode_pb(data), *data, "{}", path.display());
                }
                codecs::DAG_CBOR => {
                    counts[1] += 1;
                    let value = dag_cbor::decode(data).unwrap();
                    assert_eq!(dag_cbor::encode(&value).unwrap(), *data, "{}", path.display());
                    values.push(value);
                }
                codecs::DAG_JSON => {
                    counts[2] += 1;
                    let value = dag_json::decode(data).unwrap();
                    assert_eq!(dag_json::encode(&value).unwrap(), *data, "{}", path.display());
                    values.push(value);
                }
                other => panic!("{}: codec {other:x}", path.display()),
            }
        }
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{}", folder.display());
    }
    assert_eq!(counts, [17, 35, 35], "dag-pb, dag-cbor, dag-json");
}

#[test]
fn negative_fixtures_are_refused() {
    let Some(shared) = shared_fixtures() else { return };
    let check = |codec: &str, refused: &dyn Fn(&Bytes) -> bool| {
        let mut count = 0;
        for path in entries(&shared.join("codec-fixtures/negative-fixtures").join(codec)) {
            let cases: Vec<serde_json::Value> =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for case in cases {
                count += 1;
                assert!(refused(&unhex(case["hex"].as_str().unwrap())), "{codec}: {case}");
            }
        }
        count
    };
    assert_eq!(check("dag-cbor/decode", &|bytes| dag_cbor::decode(bytes).is_err()), 1);
    assert_eq!(check("dag-pb/decode", &|bytes| PbNode::decode(bytes.clone()).is_err()), 9);
}

#[test]
fn cbor_that_is_not_canonical_is_refused() {
    let Some(shared) = shared_fixtures() else { return };
    let bytes = std::fs::read(shared.join("kubo/t0053-non-canon.cbor")).unwrap();
    let error = dag_cbor::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "not dag-cbor, at byte 48: map keys out of order");
}

#[test]
fn dag_pb_that_is_not_unixfs_is_a_node_but_no_file() {
    for hex in ["0a050001020304", "0a00", "0a03010203", ""] {
        let block = Block::hash_v0(unhex(hex)).unwrap();
        assert!(PbNode::decode(block.data().clone()).is_ok(), "{hex}");
        assert!(Node::decode(&block).is_err(), "{hex}");
    }
}

/// What a row of [`OBJECTS`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    NotUnixFs,
    Dir(usize),
    File(u64),
    Symlink(&'static str),
}

/// spec 12 §1–§4: bytes, CID, and what they are.
const OBJECTS: &[(&str, &str, Kind)] = &[
    ("", "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n", Kind::NotUnixFs),
    ("", "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", Kind::NotUnixFs),
    ("0a020801", "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn", Kind::Dir(0)),
    ("0a020801", "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354", Kind::Dir(0)),
    ("0a020801", "bafyaabakaieac", Kind::Dir(0)),
    ("0a0408021800", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", Kind::File(0)),
    ("0a0408021800", "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y", Kind::File(0)),
    ("0a0408021800", "bafyaabqkaqeaegaa", Kind::File(0)),
    (
        "0a120802120c68656c6c6f20776f726c640a180c",
        "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o",
        Kind::File(12),
    ),
    (
        "0a120802120c68656c6c6f20776f726c640a180c",
        "bafybeicg2rebjoofv4kbyovkw7af3rpiitvnl6i7ckcywaq6xjcxnc2mby",
        Kind::File(12),
    ),
    (
        "0a110802120b68656c6c6f20776f726c64180b",
        "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD",
        Kind::File(11),
    ),
    ("0a0708041203666f6f", "QmTB8BaCJdCH5H3k7GrxJsxgDNmNYGGR71C58ERkivXoj5", Kind::Symlink("foo")),
    (
        "122b0a22122047d9b0e5086c1a7981760bf2c33b885b188e58104adab850efe7090b0b00956012036261721809\
         122b0a221220e9334d3b1ef698a1085c400c24d307f8ad7793973959302bda9e6a9288584f1e1203666f6f1810\
         0a020801",
        "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt",
        Kind::Dir(2),
    ),
    (
        "12280a2212201ffacdbda1f7516ce9087539e0ab7fd89811250fa65e9de27541003c4d5e77b7120018140a0608\
         02180c200c",
        "QmVib14uvPnCP73XaCDpwugRuwfTsVbGyWbatHAmLSdZUS",
        Kind::File(12),
    ),
    (
        "0a220802120c68656c6c6f20776f726c640a180c38ed03420b0880e2cfaa061515cd5b07",
        "QmXawsuHEy1uuRsKS2bYT1SsfyQaESvF5RPPU1mdsvnBe6",
        Kind::File(12),
    ),
    (
        "0a150802120c68656c6c6f20776f726c640a180c38a403",
        "bafybeibon6ytb4v2gyzwdbm26f2noxwlnbq7sapjljp4u5f42xqrragcsu",
        Kind::File(12),
    ),
    (
        "0a1a0802120c68656c6c6f20776f726c640a180c42060880e2cfaa06",
        "bafybeifwvqn5os6nzxqhfizovyijp4krxp24fswlqhw4gijob5uzdnlttq",
        Kind::File(12),
    ),
    (
        "12330a2401551220a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a4471209\
         68656c6c6f2e747874180c122e0a240170122011eefe699ac128ee88670118cd126e0d21e77610cd177fb13f32\
         daf20eec1c5812046c696e6b180f122d0a240170122059948439065f29619ef41280cbb932be52c56d99c5966b\
         65e0111239f098bbef120373756218040a020801",
        "bafybeih2ywvenqkloyk4m47rbkgn2pc7rutkz6ws3utt6f3cn3kv3i245u",
        Kind::Dir(3),
    ),
    (
        "122a0a2212207d3655b5c77d3c0241ab59e1dd0d06a12f67d29513b7379622ecd81c222e77451200188e801012\
         280a2212207ea5134cef6d5176f671769803b58c1dac76d02f05f64e393e5011daaad59acb120018090a0c0802\
         18818010208080102001",
        "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ",
        Kind::File(262_145),
    ),
    (
        "122b0a2212205cdeaf77c4ece3df4ca1818b195d31c60a139b48110b6cc18aebb31a6a7cc9d9120018aed4e015\
         12280a221220657ab1e6c3db19ba07880dad38f9ba69e866e60f1beed0546d322a81f56bccd31200183b0a0e08\
         02188180e015208080e0152001",
        "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW",
        Kind::File(174 * 262_144 + 1),
    ),
    (
        "122c0a24015512200268cb8e7373247d08ea6c0846700eb7b9c8eb58bfecbd921e4252e9e266ec981200188080\
         40122a0a24015512204d7b3ef7300acf70c892d8327db8272f54434adbc61a4e130a563cb59a0d0f4712001801\
         0a0c080218818040208080402001",
        "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64",
        Kind::File(1_048_577),
    ),
];

#[test]
fn the_objects_of_the_spec_decode_and_encode_to_their_cids() {
    for &(hex, cid, expected) in OBJECTS {
        let cid = cid_from_text(cid).unwrap();
        let block = Block::verify(cid, unhex(hex)).unwrap();
        assert_eq!(reencode_pb(block.data()), *block.data(), "{cid}");
        let matches = match (Node::decode(&block), expected) {
            (Err(_), Kind::NotUnixFs) => true,
            (Ok(Node::Directory(dir)), Kind::Dir(count)) => dir.entries(0).count() == count,
            (Ok(Node::File(file)), Kind::File(len)) => file.file_len() == len,
            (Ok(Node::Symlink(link)), Kind::Symlink(target)) => link.target == target,
            _ => false,
        };
        assert!(matches, "{cid}: {expected:?}");
    }
}

#[test]
fn plain_bytes_have_the_cids_of_the_spec() {
    for (text, expected) in [
        ("", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        ("hello world\n", "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        ("hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        ("test", "f015512209f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    ] {
        let data = Bytes::from_static(text.as_bytes());
        let block = Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap();
        let expected: Cid = cid_from_text(expected).unwrap();
        assert_eq!(*block.cid(), expected, "{text}");
    }
}
