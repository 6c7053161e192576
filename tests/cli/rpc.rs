//! The control API over its socket, spoken as kubo's clients speak it (spec 09).

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};

use super::sandbox::{ABSENT, HELLO, Sandbox, TREE, vector_tree};

/// What a request was answered with.
struct Answer {
    status: u16,
    headers: HeaderMap,
    /// `None` when the daemon broke off.
    body: Option<Bytes>,
    trailers: HeaderMap,
}

impl Answer {
    /// The connection ended before the head of the answer.
    fn broken_off() -> Self {
        Self { status: 0, headers: HeaderMap::new(), body: None, trailers: HeaderMap::new() }
    }

    #[track_caller]
    fn json(&self) -> Json {
        let body = self.body.as_ref().expect("a whole body");
        serde_json::from_slice(body).unwrap_or_else(|_| panic!("no JSON: {body:?}"))
    }

    #[track_caller]
    fn lines(&self) -> Vec<Json> {
        let body = self.body.as_ref().expect("a whole body");
        body.split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends one request; `headers` are pairs.
fn send(
    sandbox: &Sandbox,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream =
            tokio::net::UnixStream::connect(sandbox.repo().join("api.sock")).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v0/{path}"))
            .header("host", "127.0.0.1:5001");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let Ok(response) = sender.send_request(request).await else {
            return Answer::broken_off();
        };
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.ok();
        let trailers = collected.as_ref().and_then(|body| body.trailers().cloned());
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: collected.map(http_body_util::Collected::to_bytes),
            trailers: trailers.unwrap_or_default(),
        }
    })
}

fn post(sandbox: &Sandbox, path: &str) -> Answer {
    send(sandbox, Method::POST, path, &[], Vec::new())
}

/// A part: disposition parameters, content type, content.
type Part<'a> = (&'a str, &'a str, &'a [u8]);

fn upload(sandbox: &Sandbox, path: &str, parts: &[Part<'_>]) -> Answer {
    let mut body = Vec::new();
    for (disposition, content_type, content) in parts {
        body.extend_from_slice(b"--BOUNDARY\r\n");
        body.extend_from_slice(format!("Content-Disposition: {disposition}\r\n").as_bytes());
        body.extend_from_slice(format!("Content-Type: {content_type}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--BOUNDARY--\r\n");
    let content_type = "multipart/form-data; boundary=BOUNDARY";
    send(sandbox, Method::POST, path, &[("content-type", content_type)], body)
}

fn with_daemon() -> (Sandbox, super::sandbox::Daemon) {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let daemon = sandbox.daemon();
    (sandbox, daemon)
}

#[test]
fn only_post_is_answered() {
    let (sandbox, _daemon) = with_daemon();
    let refused = send(&sandbox, Method::GET, "version", &[], Vec::new());
    assert_eq!((refused.status, refused.header("allow")), (405, Some("OPTIONS, POST")));
    let version = post(&sandbox, "version");
    assert_eq!(version.status, 200);
    assert_eq!(version.json()["Version"], "0.42.0");
    assert!(version.header("server").unwrap().starts_with("cidfs/"));
    assert_eq!(version.header("content-type"), Some("application/json"));
}

#[test]
fn web_pages_are_refused() {
    let (sandbox, _daemon) = with_daemon();
    let check = |name, value, status| {
        let answer = send(&sandbox, Method::POST, "version", &[(name, value)], Vec::new());
        assert_eq!(answer.status, status, "{name}: {value}");
    };
    check("origin", "https://evil.example", 403);
    check("referer", "https://evil.example/", 403);
    check("user-agent", "Mozilla/5.0", 403);
    check("origin", "http://127.0.0.1:5001", 200);
    check("user-agent", "node-fetch", 200);
}

#[test]
fn failures_have_kubos_form() {
    let (sandbox, _daemon) = with_daemon();
    let check = |path: &str, status: u16, code: u64, words: &str| {
        let answer = post(&sandbox, path);
        let body = answer.json();
        assert_eq!(answer.status, status, "{path}: {body}");
        assert_eq!((body["Code"].as_u64(), body["Type"].as_str()), (Some(code), Some("error")));
        assert!(body["Message"].as_str().unwrap().contains(words), "{path}: {body}");
    };
    check("cat", 400, 1, "argument \"ipfs-path\" is required");
    check("nonsense", 404, 1, "no command");
    check(&format!("cat?arg={TREE}"), 500, 0, "this dag node is a directory");
    check(&format!("cat?arg={ABSENT}"), 500, 0, "is not here");
    check("cat?arg=%zz", 400, 1, "two hex digits");
    check(&format!("cat?arg={HELLO}&timeout=soon"), 400, 1, "not a duration");
    check(&format!("cat?arg={HELLO}&offset=-1"), 400, 1, "offset");
    check("add", 400, 1, "path");
    check("config?arg=nonsense", 400, 1, "unknown key");
}

#[test]
fn peers_have_kubos_words() {
    let (sandbox, _daemon) = with_daemon();
    let list = post(&sandbox, "bootstrap/list").json();
    assert_eq!(
        (list["Peers"].as_array().unwrap().len(), &post(&sandbox, "bootstrap").json()),
        (7, &list)
    );
    assert_eq!(post(&sandbox, "bootstrap/rm/all").json(), list);
    assert_eq!(post(&sandbox, "bootstrap/list").json(), json!({ "Peers": [] }));
    let first = list["Peers"][0].as_str().unwrap();
    let added = post(&sandbox, &format!("bootstrap/add?arg={first}")).json();
    assert_eq!(added, json!({ "Peers": [first] }));
    let added = post(&sandbox, "bootstrap/add/default").json();
    assert_eq!(added["Peers"].as_array().unwrap().len(), 6, "one was there");
    assert_eq!(post(&sandbox, "bootstrap/list").json(), list);

    let check = |path: &str, status, code: u8, words: &str| {
        let answer = post(&sandbox, path);
        let (body, got) = (answer.json(), answer.status);
        assert_eq!((got, &body["Code"]), (status, &code.into()), "{path}: {body}");
        assert!(body["Message"].as_str().unwrap().contains(words), "{path}: {body}");
    };
    let peer = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";
    check("ping", 400, 1, "argument \"peer ID\" is required");
    check("ping?arg=x", 400, 1, "\"x\" is no address");
    check(&format!("ping?arg={peer}&count=0"), 400, 1, "ping count must be from 1 to 1000, was 0");
    check(&format!("ping?arg={peer}"), 500, 0, "does not talk to others");
    check("stats/bw?proto=/ipfs/bitswap", 400, 1, "not by protocol");
    check("stats/bw", 500, 0, "does not talk to others");
    check("swarm/limits", 500, 0, "does not talk to others");
    check("fetch", 400, 1, "argument \"ipfs-path\" is required");
    check("bootstrap/add?arg=/ip4/192.0.2.7/tcp/1", 400, 1, "does not end with /p2p/");
}

#[test]
fn streams_say_what_they_are() {
    let (sandbox, _daemon) = with_daemon();
    let cat = post(&sandbox, &format!("cat?arg={HELLO}&offset=6&length=5"));
    assert_eq!(cat.body.as_deref(), Some(&b"world"[..]));
    assert_eq!(cat.header("x-stream-output"), Some("1"));
    assert_eq!(cat.header("x-content-length"), Some("5"));
    assert_eq!(cat.header("content-type"), Some("text/plain"));
    let check = |path: &str, content_type| {
        let answer = post(&sandbox, &format!("{path}?arg={TREE}"));
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert!(!answer.body.unwrap().is_empty());
    };
    check("get", "application/x-tar");
    check("dag/export", "application/vnd.ipld.car");
    check("block/get", "application/vnd.ipld.raw");
}

#[test]
fn kubos_clients_add_files() {
    let (sandbox, _daemon) = with_daemon();
    // As the Go client sends a directory: escaped names, parents first, the root without a name.
    let answer = upload(
        &sandbox,
        "add?chunker=size-262144&cid-version=0&raw-leaves=false&hash=sha2-256&pin=true&progress=true",
        &[
            ("attachment; filename=\"\"", "application/x-directory", b""),
            ("attachment; filename=\"a+dir\"", "application/x-directory", b""),
            (
                "attachment; filename=\"a+dir%2Fhello.txt\"",
                "application/octet-stream",
                b"hello world\n",
            ),
            ("attachment; filename=\"a+dir%2Flink\"", "application/symlink", b"hello.txt"),
        ],
    );
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("x-chunked-output"), Some("1"));
    let lines = answer.lines();
    assert!(lines.iter().any(|line| line["Bytes"] == 12 && line["Name"] == "a dir/hello.txt"));
    let root = lines.last().unwrap();
    assert_eq!(root["Name"], "a dir");
    // The tree of the vectors without the empty directory.
    assert_eq!(root["Hash"], "Qmaq1mM9DJsHzDUsW8WYAqNGxnxWzdbNTL3LvxnqqmMA1N");
    assert!(root["Size"].is_string());
    let pinned = post(&sandbox, &format!("pin/ls?arg={}", root["Hash"].as_str().unwrap())).json();
    assert_eq!(pinned["Keys"].as_object().unwrap().len(), 1);
}

#[test]
fn kubos_clients_add_metadata_and_nameless_files() {
    let (sandbox, _daemon) = with_daemon();
    let disposition = "form-data; name=\"file\"; filename=\"h\"; mode=\"0755\"; mtime=1700000000; mtime-nsecs=123456789";
    let parts: [Part<'_>; 1] = [(disposition, "application/octet-stream", b"hello world\n")];
    let kept = upload(
        &sandbox,
        "add?profile=unixfs-v0-2015&preserve-mode=true&preserve-mtime=true",
        &parts,
    );
    assert_eq!(kept.json()["Hash"], "QmXawsuHEy1uuRsKS2bYT1SsfyQaESvF5RPPU1mdsvnBe6");
    let left = upload(&sandbox, "add?only-hash=true", &parts);
    assert_eq!(left.json(), json!({ "Name": "h", "Hash": HELLO, "Size": "12" }));
    let nameless: [Part<'_>; 1] = [("form-data; name=\"file\"", "text/plain", b"hello world\n")];
    assert_eq!(upload(&sandbox, "add", &nameless).json()["Name"], HELLO);
}

#[test]
fn hostile_uploads_cost_only_themselves() {
    let (sandbox, _daemon) = with_daemon();
    let check = |disposition: &str| {
        let parts: [Part<'_>; 1] = [(disposition, "application/octet-stream", b"x")];
        let answer = upload(&sandbox, "add", &parts);
        assert!(answer.status >= 400, "{disposition}: {:?}", answer.body);
    };
    check("form-data; filename=\"../escape\"");
    check("form-data; filename=\"a/./b\"");
    check("form-data; filename=\"nul%00\"");
    check("form-data; filename=\"%zz\"");
    check("form-data; filename=\"x\"; mode=rwx");
    let cut = send(
        &sandbox,
        Method::POST,
        "add",
        &[("content-type", "multipart/form-data; boundary=B")],
        b"--B\r\nContent-Disposition: form-data; filename=\"x\"\r\n\r\nno end".to_vec(),
    );
    assert!(cut.status >= 400);
    let none =
        send(&sandbox, Method::POST, "add", &[("content-type", "multipart/form-data")], vec![]);
    assert_eq!(none.status, 400);
    assert_eq!(post(&sandbox, "version").status, 200);
}

#[test]
fn late_errors_are_told() {
    let (sandbox, _daemon) = with_daemon();
    // The listing of the directory is here; a block below it is not.
    post(&sandbox, &format!("pin/rm?arg={TREE}"));
    post(&sandbox, &format!("block/rm?arg={HELLO}"));
    let path = format!("dag/export?arg={TREE}");
    let told = send(&sandbox, Method::POST, &path, &[("te", "trailers")], Vec::new());
    assert_eq!(told.status, 200);
    let sentence = told.trailers.get("x-stream-error").unwrap().to_str().unwrap();
    assert!(sentence.contains(HELLO), "{sentence}");
    let broken = post(&sandbox, &path);
    assert!(broken.body.is_none(), "without trailers the connection breaks");
}

#[test]
fn answers_have_the_shapes_of_the_table() {
    let (sandbox, _daemon) = with_daemon();
    let get = |path: &str| post(&sandbox, path).json();
    assert_eq!(
        get(&format!("resolve?arg=/ipfs/{TREE}/hello.txt")),
        json!({ "Path": format!("/ipfs/{HELLO}") })
    );
    assert_eq!(get(&format!("block/stat?arg={HELLO}")), json!({ "Key": HELLO, "Size": 12 }));
    assert_eq!(
        get(&format!("files/stat?arg=/ipfs/{TREE}")),
        json!({ "Hash": TREE, "Size": 0, "CumulativeSize": 183, "Blocks": 3, "Type": "directory" })
    );
    assert_eq!(get(&format!("files/stat?arg=/ipfs/{TREE}/link"))["Type"], "file");
    assert_eq!(
        get(&format!("dag/resolve?arg={TREE}/hello.txt")),
        json!({ "Cid": { "/": HELLO }, "RemPath": "" })
    );
    assert_eq!(
        get(&format!("pin/ls?arg={TREE}")),
        json!({ "Keys": { TREE: { "Type": "recursive", "Name": "" } } })
    );
    assert_eq!(get(&format!("pin/add?arg={TREE}")), json!({ "Pins": [TREE] }));
    assert_eq!(post(&sandbox, "pin/ls?stream=true").lines().len(), 4);
    assert_eq!(get("repo/version"), json!({ "Version": "1" }));
    assert_eq!(get("repo/stat")["NumObjects"], 4);
    assert_eq!(post(&sandbox, &format!("refs?arg={TREE}&recursive=true")).lines().len(), 3);
    assert_eq!(get("config?arg=mount.ipfs"), json!({ "Key": "mount.ipfs", "Value": "/ipfs" }));
    assert_eq!(
        get(&format!("ls?arg={TREE}&resolve-type=false&size=false"))["Objects"][0]["Links"][1]["Type"],
        0
    );
}

#[test]
fn archives_and_blocks_are_uploaded() {
    let (sandbox, _daemon) = with_daemon();
    let car = post(&sandbox, &format!("dag/export?arg={TREE}")).body.unwrap();
    let parts: [Part<'_>; 1] =
        [("form-data; name=\"file\"; filename=\"x.car\"", "application/octet-stream", &car)];
    let lines = upload(&sandbox, "dag/import?stats=true", &parts).lines();
    assert_eq!(lines[0], json!({ "Root": { "Cid": { "/": TREE }, "PinErrorMsg": "" } }));
    assert_eq!(lines[1], json!({ "Stats": { "BlockCount": 4, "BlockBytesCount": 183 } }));
    let parts: [Part<'_>; 1] =
        [("form-data; name=\"data\"", "application/octet-stream", b"hello world\n")];
    for query in ["block/put", "block/put?mhlen=-1", "block/put?mhtype=sha2-256&mhlen=32"] {
        let answer = upload(&sandbox, query, &parts);
        assert_eq!(answer.json(), json!({ "Key": HELLO, "Size": 12 }), "{query}");
    }
    assert_eq!(upload(&sandbox, "block/put?mhlen=20", &parts).status, 400);
}

#[test]
fn what_cannot_be_done_yet_is_refused() {
    let (sandbox, _daemon) = with_daemon();
    let refused = |option: &str, why: &str| {
        let answer = upload(
            &sandbox,
            &format!("add?{option}=true"),
            &[(r#"form-data; name="file"; filename="f""#, "application/octet-stream", b"x")],
        );
        assert_eq!(answer.status, 400, "{option}");
        let message = answer.json()["Message"].as_str().unwrap().to_owned();
        assert!(message.contains(why), "{message}");
    };
    refused("fscache", "--fscache is not supported");
    refused("to-files", "--to-files is not supported");
    refused("nocopy", "a body lies nowhere");
}
