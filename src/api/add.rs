//! `add`: files from a multipart body, or (ours) from paths of this machine, become blocks.
//!
//! Paths are read by the node itself and are for the owner's own programs: the control socket
//! lets nobody else in.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{FromRequest as _, FromRequestParts as _, Multipart, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use cid::Version;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::multipart::{PartKind, next_part};
use crate::api::name::Name;
use crate::api::reply::{self, Kind, Sink};
use crate::api::request::{CidEncoder, Form, Params};
use crate::block::HashFn;
use crate::codec::node::SYMLINK_LEN_MAX;
use crate::codec::unixfs::Mtime;
use crate::keep::Hold;
use crate::store::{BlockStore, PinMode, Pins};
use crate::unixfs::import::{
    AddressFlags, BigFiles, Follow, INLINE_LIMIT_DEFAULT, ImportOptions, ImportedRoot, Layout,
    MetadataRules, Profile, Progress, Selection, TreeBuilder, import_paths,
};

/// Why permissions of 0 are not kept: other tools write and read them as none, so storing them would give
/// CIDs that nobody else computes.
pub(crate) const MODE_LOST: &str = "the mode 0000 is not stored, as with other IPFS tools; it will have default permissions, which let everybody read it";

/// Something that happened during an import.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddEvent {
    /// The file, relative to the directory of the argument; the CID of a stream without a name.
    #[serde(flatten)]
    pub name: Name,
    /// Its CID, when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Bytes read so far, while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Cumulative size in bytes of its blocks, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// What is not as it was asked for; sent to who asks for `warnings`, since kubo has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl AddEvent {
    fn of(name: &[u8]) -> Self {
        Self { name: Name::new(name), hash: None, bytes: None, size: None, warning: None }
    }
}

/// `add?…`, with a multipart body or with `path=…`.
pub(super) async fn add(State(node): State<Node>, request: Request) -> Result<Response, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| value.starts_with("multipart/")) {
        let (mut parts, body) = request.into_parts();
        let params = Params::from_request_parts(&mut parts, &()).await?;
        let body = Multipart::from_request(Request::from_parts(parts, body), &())
            .await
            .map_err(|error| ApiError::client(error.body_text()))?;
        return import(&node, params, Source::Body(body)).await;
    }
    let Form(params) = Form::from_request(request, &()).await?;
    let paths: Vec<PathBuf> = params.all("path").map(path_of).collect();
    if paths.is_empty() {
        return Err(ApiError::client("argument \"path\" is required"));
    }
    import(&node, params, Source::Paths(paths)).await
}

/// Returns a path of this machine.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

enum Source {
    Body(Multipart),
    Paths(Vec<PathBuf>),
}

struct Job {
    options: ImportOptions,
    /// Whether directories are taken among the paths.
    recursive: bool,
    store: Option<Arc<dyn BlockStore>>,
    /// Where the roots are pinned, and under what name.
    pins: Option<(Pins, Option<String>)>,
    encoder: CidEncoder,
    shows_progress: bool,
    warns: bool,
    /// Held until the roots are pinned.
    _hold: Hold,
}

async fn import(node: &Node, params: Params, source: Source) -> Result<Response, ApiError> {
    for unknown in ["fscache", "to-files"] {
        if params.bytes(unknown).is_some_and(|value| value != b"false") {
            return Err(ApiError::client(format!("--{unknown} is not supported")));
        }
    }
    let mut options = import_options(node, &params)?;
    let only_hash = params.is_on("only-hash")?;
    if params.is_on("nocopy")? {
        if matches!(source, Source::Body(_)) {
            return Err(ApiError::client(
                "--nocopy refers to files where they lie, and a body lies nowhere",
            )
            .hint("name files by `path`, or leave out --nocopy"));
        }
        if !only_hash {
            options.big_files = BigFiles::Referred(node.repository().blocks.clone());
        }
    } else if !only_hash {
        options.big_files = BigFiles::Assembled(node.repository().blocks.clone());
    }
    let pins = !only_hash && params.flag("pin")?.unwrap_or(true);
    let pin_name = params.text("pin-name")?.map(str::to_owned);
    let job = Job {
        options,
        recursive: params.is_on("recursive")?,
        store: (!only_hash).then(|| node.keeper().store()),
        pins: pins.then(|| (node.repository().pins.clone(), pin_name)),
        encoder: params.encoder()?,
        shows_progress: params.is_on("progress")?,
        warns: params.is_on("warnings")?,
        _hold: node.keeper().hold().await,
    };
    let handle = Handle::current();
    reply::stream_blocking(&params, Kind::Json, move |sink| job.run(source, &handle, &sink)).await
}

fn refuse_directories(paths: &[PathBuf], follow: Follow) -> Result<(), ApiError> {
    for path in paths {
        let metadata = match follow {
            Follow::Never => path.symlink_metadata(),
            Follow::Arguments | Follow::Always => path.metadata(),
        };
        // What cannot be looked at is reported by the import, with the reason.
        if metadata.is_ok_and(|metadata| metadata.is_dir()) {
            return Err(ApiError::client(format!(
                "'{}' is a directory, use the '-r' flag to specify directories",
                path.display()
            )));
        }
    }
    Ok(())
}

impl Job {
    fn run(&self, source: Source, handle: &Handle, sink: &Sink) -> Result<(), ApiError> {
        let failed = RefCell::new(None);
        let roots = RefCell::new(Vec::new());
        let progress = |event: Progress<'_>| match self.report(event, &roots, sink) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                *failed.borrow_mut() = Some(error);
                ControlFlow::Break(())
            }
        };
        let imported = match source {
            Source::Paths(paths) => {
                if !self.recursive {
                    refuse_directories(&paths, self.options.selection.follow)?;
                }
                import_paths(&paths, &self.options, self.store.clone(), &progress)
                    .map_err(ApiError::from)
            }
            Source::Body(mut body) => {
                let tree = TreeBuilder::new(&self.options, self.store.clone(), &progress)?;
                parts(&mut body, handle, tree)
            }
        };
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.pin(&imported?)?;
        roots.into_inner().iter().try_for_each(|root| sink.json_blocking(root))
    }

    /// Sends what has happened; what has no directory above it waits in `roots`, since the name of a
    /// root is the promise that all of it is durable and pinned.
    fn report(
        &self,
        event: Progress<'_>,
        roots: &RefCell<Vec<AddEvent>>,
        sink: &Sink,
    ) -> Result<(), ApiError> {
        let event = match event {
            Progress::Read { .. } if sink.is_gone() => return Err(reply::Gone.into()),
            Progress::Read { .. } if !self.shows_progress => return Ok(()),
            Progress::Read { name, file_bytes, .. } => {
                AddEvent { bytes: Some(file_bytes), ..AddEvent::of(name) }
            }
            Progress::ModeLost { .. } if !self.warns => return Ok(()),
            Progress::ModeLost { name } => {
                AddEvent { warning: Some(MODE_LOST.to_owned()), ..AddEvent::of(name) }
            }
            Progress::Added { name, cid, dag_size } => {
                let hash = Some(self.encoder.encode(cid));
                let size = Some(dag_size.to_string());
                let added = AddEvent { hash, size, ..AddEvent::of(name) };
                if !name.contains(&b'/') {
                    roots.borrow_mut().push(added);
                    return Ok(());
                }
                added
            }
        };
        sink.json_blocking(&event)
    }

    fn pin(&self, roots: &[ImportedRoot]) -> Result<(), ApiError> {
        let Some((pins, name)) = &self.pins else {
            return Ok(());
        };
        let cids: Vec<_> = roots.iter().map(|root| root.cid).collect();
        Ok(pins.add_all(&cids, PinMode::Recursive, name.as_deref())?)
    }
}

fn parts(
    body: &mut Multipart,
    handle: &Handle,
    mut tree: TreeBuilder<'_>,
) -> Result<Vec<ImportedRoot>, ApiError> {
    while let Some(mut part) = next_part(body, handle)? {
        let (path, metadata) = (part.path.clone(), part.metadata);
        match part.kind {
            PartKind::File => tree.file(&path, part, metadata)?,
            // Go's client wraps what it sends into a directory without a name.
            PartKind::Directory if path.is_empty() => {}
            PartKind::Directory => tree.directory(&path, metadata)?,
            PartKind::Symlink => {
                let mut target = Vec::new();
                let limit = SYMLINK_LEN_MAX as u64 + 1;
                part.by_ref()
                    .take(limit)
                    .read_to_end(&mut target)
                    .map_err(|error| ApiError::client(format!("the body: {error}")))?;
                tree.symlink(&path, &target, metadata)?;
            }
        }
    }
    Ok(tree.finish()?)
}

fn import_options(node: &Node, params: &Params) -> Result<ImportOptions, ApiError> {
    let defaults = node.import_defaults()?;
    let metadata = metadata_rules(params, defaults.preserve_mode, defaults.preserve_mtime)?;
    let profile = match params.text("profile")? {
        Some(name) => Profile::by_name(name).ok_or_else(|| unknown_profile(name))?,
        None => defaults.profile,
    };
    let mut ignore = Vec::new();
    for rule in params.all("ignore") {
        let rule = str::from_utf8(rule);
        ignore.push(rule.map_err(|_| ApiError::client("an ignore rule is not UTF-8"))?.to_owned());
    }
    let follow = match (params.is_on("dereference-symlinks")?, params.is_on("dereference-args")?) {
        (true, _) => Follow::Always,
        (false, true) => Follow::Arguments,
        (false, false) => Follow::Never,
    };
    Ok(ImportOptions {
        profile: shape(params, profile, metadata.any())?,
        selection: Selection {
            hidden: params.is_on("hidden")?,
            ignore,
            ignore_rules: params.bytes("ignore-rules-path").map(path_of),
            follow,
        },
        metadata,
        skip_empty_dirs: !params.flag("empty-dirs")?.unwrap_or(true),
        wrap: params.is_on("wrap-with-directory")?,
        threads: 0,
        big_files: BigFiles::Packed,
    })
}

/// Tells which profiles there are.
pub(crate) fn unknown_profile(name: &str) -> ApiError {
    ApiError::client(format!("there is no import profile \"{name}\""))
        .hint("the profiles are unixfs-v1-2025 and unixfs-v0-2015")
}

/// Applies the flags about blocks and addresses to a profile.
fn shape(params: &Params, profile: Profile, metadata: bool) -> Result<Profile, ApiError> {
    let cid_version = match params.parse::<u8>("cid-version")? {
        None => None,
        Some(0) => Some(Version::V0),
        Some(1) => Some(Version::V1),
        Some(other) => return Err(ApiError::client(format!("there is no CID version {other}"))),
    };
    let hash = params.text("hash")?.map(HashFn::by_name).transpose();
    let flags = AddressFlags {
        cid_version,
        hash: hash.map_err(ApiError::client)?,
        raw_leaves: params.flag("raw-leaves")?,
        metadata,
    };
    let mut profile = profile.with_flags(flags)?;
    if let Some(chunker) = params.parse("chunker")? {
        profile.chunker = chunker;
    }
    if params.is_on("trickle")? {
        profile.layout = Layout::Trickle;
    }
    if params.is_on("inline")? {
        let limit = params.parse("inline-limit")?.unwrap_or(INLINE_LIMIT_DEFAULT);
        profile.inline_limit = Some(limit);
    }
    profile.links_max = params.parse("max-file-links")?.unwrap_or(profile.links_max);
    profile.dir_links_max = params.parse("max-directory-links")?.unwrap_or(profile.dir_links_max);
    profile.hamt_fanout = params.parse("max-hamt-fanout")?.unwrap_or(profile.hamt_fanout);
    Ok(profile)
}

fn metadata_rules(
    params: &Params,
    preserve_mode: bool,
    preserve_mtime: bool,
) -> Result<MetadataRules, ApiError> {
    let mode = params.text("mode")?.map(parse_mode).transpose()?;
    let nanos = params.parse::<u32>("mtime-nsecs")?;
    if nanos.is_some_and(|nanos| nanos >= 1_000_000_000) {
        return Err(ApiError::client("mtime-nsecs is below 1000000000"));
    }
    let mtime = match (params.parse::<i64>("mtime")?, nanos) {
        (None, None) => None,
        (None, Some(_)) => return Err(ApiError::client("mtime-nsecs needs mtime")),
        (Some(seconds), nanos) => Some(Mtime { seconds, nanos: nanos.unwrap_or(0) }),
    };
    Ok(MetadataRules {
        preserve_mode: params.flag("preserve-mode")?.unwrap_or(preserve_mode),
        preserve_mtime: params.flag("preserve-mtime")?.unwrap_or(preserve_mtime),
        mode,
        mtime,
    })
}

/// Parses permissions as Go parses numbers: octal after a `0`, decimal otherwise.
fn parse_mode(text: &str) -> Result<u32, ApiError> {
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    let mode = match octal {
        Some("") => Ok(0),
        Some(digits) => u32::from_str_radix(digits, 8),
        None => text.parse(),
    };
    mode.map_err(|_| ApiError::client(format!("\"{text}\" is no mode; write it as 0644")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_after_a_zero() {
        for (text, mode) in [("0755", 0o755), ("0o644", 0o644), ("493", 0o755), ("0", 0)] {
            assert_eq!(parse_mode(text).unwrap(), mode, "{text}");
        }
        for text in ["", "0789", "rwx", "-1"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
