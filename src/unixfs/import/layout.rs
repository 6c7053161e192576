//! Leaves → one file DAG (spec 03 §7), streaming: only the right edge of the tree is in memory.

use super::error::ImportError;
use super::nodes::{BlockSink, Child, Made, Nodes};
use super::profile::Layout;
use crate::codec::node::Metadata;

/// Sub-trees of each depth in a trickle node, part of the format.
const TRICKLE_REPEAT: usize = 4;

/// A file DAG that grows by its leaves.
#[derive(Debug)]
pub(super) enum FileDag {
    Balanced(Balanced),
    Trickle(Trickle),
}

impl FileDag {
    pub(super) fn new(nodes: Nodes) -> Self {
        match nodes.profile().layout {
            Layout::Balanced => Self::Balanced(Balanced { nodes, levels: Vec::new() }),
            Layout::Trickle => {
                let root = Frame { depth_max: None, children: Vec::new() };
                Self::Trickle(Trickle { nodes, edge: vec![root] })
            }
        }
    }

    /// Appends a leaf, whose block is already on its way.
    pub(super) fn push(
        &mut self,
        leaf: Child,
        out: &mut impl BlockSink,
    ) -> Result<(), ImportError> {
        match self {
            Self::Balanced(dag) => dag.push(0, leaf, out),
            Self::Trickle(dag) => dag.push(leaf, out),
        }
    }

    /// Closes the tree. A balanced one has at least one leaf; a lone leaf is the root as it is.
    pub(super) fn finish(
        self,
        metadata: Metadata,
        out: &mut impl BlockSink,
    ) -> Result<Child, ImportError> {
        match self {
            Self::Balanced(dag) => dag.finish(metadata, out),
            Self::Trickle(dag) => dag.finish(metadata, out),
        }
    }
}

fn put(made: Made, out: &mut impl BlockSink) -> Result<Child, ImportError> {
    out.put(made.block)?;
    Ok(made.child)
}

/// The nodes of each level that have no parent yet, leaves first. A full level gets its parent
/// only when one more comes, so that the root is always made at the end, with its metadata.
#[derive(Debug)]
pub(super) struct Balanced {
    nodes: Nodes,
    levels: Vec<Vec<Child>>,
}

impl Balanced {
    fn push(
        &mut self,
        level: usize,
        child: Child,
        out: &mut impl BlockSink,
    ) -> Result<(), ImportError> {
        let mut carried = child;
        for at in level.. {
            if at == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[at];
            let full = row.len() == self.nodes.profile().links_max;
            if !full {
                row.push(carried);
                break;
            }
            let parent = self.nodes.inner(row, Metadata::default())?;
            row.clear();
            row.push(carried);
            carried = put(parent, out)?;
        }
        Ok(())
    }

    fn finish(
        mut self,
        metadata: Metadata,
        out: &mut impl BlockSink,
    ) -> Result<Child, ImportError> {
        let mut level = 0;
        loop {
            let row = std::mem::take(&mut self.levels[level]);
            let top = level + 1 == self.levels.len();
            match row[..] {
                [root] if top => return Ok(root),
                _ => {
                    let own = if top { metadata } else { Metadata::default() };
                    let parent = put(self.nodes.inner(&row, own)?, out)?;
                    self.push(level + 1, parent, out)?;
                }
            }
            level += 1;
        }
    }
}

/// The open nodes from the root to the newest leaf.
#[derive(Debug)]
pub(super) struct Trickle {
    nodes: Nodes,
    edge: Vec<Frame>,
}

/// A node that still grows: leaves first, then sub-trees of depth 1, 2, … up to its bound.
#[derive(Debug)]
struct Frame {
    /// Sub-trees are shallower than this; the root has no bound.
    depth_max: Option<usize>,
    children: Vec<Child>,
}

impl Frame {
    fn next_depth(&self, links_max: usize) -> usize {
        1 + (self.children.len() - links_max) / TRICKLE_REPEAT
    }
}

impl Trickle {
    fn push(&mut self, leaf: Child, out: &mut impl BlockSink) -> Result<(), ImportError> {
        let links_max = self.nodes.profile().links_max;
        while let Some(frame) = self.edge.last_mut() {
            if frame.children.len() < links_max {
                frame.children.push(leaf);
                break;
            }
            let depth = frame.next_depth(links_max);
            if frame.depth_max.is_none_or(|max| depth < max) {
                self.edge.push(Frame { depth_max: Some(depth), children: Vec::new() });
            } else {
                self.close(out)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, out: &mut impl BlockSink) -> Result<(), ImportError> {
        if let Some(frame) = self.edge.pop() {
            let child = put(self.nodes.inner(&frame.children, Metadata::default())?, out)?;
            if let Some(parent) = self.edge.last_mut() {
                parent.children.push(child);
            }
        }
        Ok(())
    }

    fn finish(
        mut self,
        metadata: Metadata,
        out: &mut impl BlockSink,
    ) -> Result<Child, ImportError> {
        while self.edge.len() > 1 {
            self.close(out)?;
        }
        put(self.nodes.inner(&self.edge[0].children, metadata)?, out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::block::Cid;
    use crate::unixfs::import::Profile;

    fn nodes(layout: Layout, links_max: usize) -> Nodes {
        Nodes::new(Arc::new(Profile { layout, links_max, ..Profile::default() }))
    }

    fn leaves(nodes: &Nodes, count: usize) -> Vec<Child> {
        let leaf = |n: usize| nodes.leaf(Bytes::from(n.to_string())).unwrap().child;
        (0..count).map(leaf).collect()
    }

    fn inner(nodes: &Nodes, children: &[Child]) -> Child {
        nodes.inner(children, Metadata::default()).unwrap().child
    }

    fn check(nodes: &Nodes, leaves: &[Child], want: Cid) {
        let mut dag = FileDag::new(nodes.clone());
        let mut blocks = Vec::new();
        for leaf in leaves {
            dag.push(*leaf, &mut blocks).unwrap();
        }
        let root = dag.finish(Metadata::default(), &mut blocks).unwrap();
        assert_eq!(root.cid, want, "{} leaves", leaves.len());
    }

    /// The rule by the letter: pack a whole level, then the next, until one node is left.
    #[test]
    fn balanced_packs_level_by_level() {
        for links_max in [2, 3, 10] {
            let nodes = nodes(Layout::Balanced, links_max);
            for count in 1..=120 {
                let leaves = leaves(&nodes, count);
                let mut level = leaves.clone();
                while level.len() > 1 {
                    level = level.chunks(links_max).map(|row| inner(&nodes, row)).collect();
                }
                check(&nodes, &leaves, level[0].cid);
            }
        }
    }

    /// The rule by the letter: leaves first, then sub-trees of depth 1, 2, … four times each.
    fn trickle(nodes: &Nodes, leaves: &mut &[Child], depth_max: usize) -> Child {
        let direct = leaves.len().min(nodes.profile().links_max);
        let mut children = leaves.split_off(..direct).unwrap().to_vec();
        for depth in 1..depth_max {
            for _ in 0..4 {
                if !leaves.is_empty() {
                    children.push(trickle(nodes, leaves, depth));
                }
            }
        }
        inner(nodes, &children)
    }

    #[test]
    fn trickle_nests_deeper_and_deeper() {
        for links_max in [2, 3, 10] {
            let nodes = nodes(Layout::Trickle, links_max);
            for count in (0..=60).chain([500, 1000]) {
                let leaves = leaves(&nodes, count);
                check(&nodes, &leaves, trickle(&nodes, &mut &leaves[..], 20).cid);
            }
        }
    }
}
