//! A bug in the daemon.

use std::fs;
use std::sync::Arc;

use cidfs::block::{Block, Cid};
use cidfs::exchange::{Exchange, ExchangeError, Session, Urgency};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use futures::future::{BoxFuture, FutureExt as _};
use nix::errno::Errno;

use super::{check_errno, pb_file, take};

/// Panics at the first poll, or after it has waited.
#[derive(Debug)]
struct Broken {
    at_once: bool,
}

impl Exchange for Broken {
    fn fetch<'a>(
        &'a self,
        _cid: &'a Cid,
        _urgency: Urgency,
        _session: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>> {
        async move {
            if !self.at_once {
                tokio::task::yield_now().await;
            }
            panic!("a bug, on purpose")
        }
        .boxed()
    }

    fn hurry(&self, _cid: &Cid) {}

    fn is_offline(&self) -> bool {
        false
    }
}

/// > A bug that ends in a panic costs its own request, with `EIO`; the mount goes on.
#[test]
fn a_panic_costs_one_request() {
    for at_once in [true, false] {
        let mut builder = DagBuilder::new();
        let missing = pb_file(&mut builder, "missing");
        let good = builder.raw("good\n");
        let root = builder.directory(&[("missing", missing), ("good.txt", good)]);
        take(&mut builder, &missing);
        let store = Arc::new(TestStore::new(builder.blocks));
        let mount = TempMount::directory(store, Arc::new(Broken { at_once }), &root, "");
        for _ in 0..8 {
            check_errno(fs::metadata(mount.path("missing")), Errno::EIO);
            assert_eq!(fs::read(mount.path("good.txt")).unwrap(), b"good\n");
        }
    }
}
