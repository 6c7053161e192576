//! Where the leaves of one big file go.

use std::sync::Arc;

use super::error::ImportError;
use super::options::{BigFiles, ImportOptions};
use super::source::Source;
use crate::block::Block;
use crate::store::{Assembly, AssemblyGroup, DiskStore, FileBlocks};

/// Where the leaves of files go, and what waits to be made durable with others.
#[derive(Debug)]
pub(super) enum Homes {
    Packs,
    Assemblies { group: AssemblyGroup, len_min: u64 },
    References(Arc<DiskStore>),
}

impl Homes {
    pub(super) fn of(options: &ImportOptions) -> Self {
        match &options.big_files {
            BigFiles::Assembled(store) if options.has_provable_leaves() => Self::Assemblies {
                group: AssemblyGroup::new(Arc::clone(store)),
                len_min: store.assemble_min_bytes(),
            },
            BigFiles::Assembled(_) | BigFiles::Packed => Self::Packs,
            BigFiles::Referred(store) => Self::References(Arc::clone(store)),
        }
    }

    /// Returns the place for the leaves of a file that is read piece by piece.
    pub(super) fn of_source(&self, source: &mut Source) -> Result<Home, ImportError> {
        Ok(match self {
            Self::Assemblies { group, len_min } if source.len() >= *len_min => {
                Home::Assembly(Box::new(source.assemble_in(group)?))
            }
            Self::Packs | Self::Assemblies { .. } => Home::Packs,
            Self::References(store) => Home::Reference(Arc::clone(store), source.blocks_in(store)?),
        })
    }

    /// The same for a stream, which lies nowhere and may be any length.
    pub(super) fn of_stream(&self) -> Result<Home, ImportError> {
        Ok(match self {
            Self::Assemblies { group, .. } => Home::Assembly(Box::new(group.begin()?)),
            Self::Packs | Self::References(_) => Home::Packs,
        })
    }

    /// The same for a file of so many bytes and leaves that is in memory. One of a single block is that
    /// block, and as fast to read in a pack.
    pub(super) fn of_short(&self, len: u64, leaves: usize) -> Result<Home, ImportError> {
        match self {
            Self::Assemblies { len_min, .. } if leaves > 1 && len >= *len_min => self.of_stream(),
            Self::Packs | Self::Assemblies { .. } | Self::References(_) => Ok(Home::Packs),
        }
    }

    /// Takes a home with all leaves of a file that did not change meanwhile.
    pub(super) fn take(&mut self, home: Home) -> Result<(), ImportError> {
        match (self, home) {
            (Self::Assemblies { group, .. }, Home::Assembly(assembly)) => group.add(*assembly)?,
            (_, Home::Reference(store, blocks)) => store.refer(blocks)?,
            (_, Home::Packs | Home::Assembly(_)) => {}
        }
        Ok(())
    }

    /// Makes what was taken durable.
    pub(super) fn finish(&mut self) -> Result<(), ImportError> {
        match self {
            Self::Assemblies { group, .. } => Ok(group.finish()?),
            Self::Packs | Self::References(_) => Ok(()),
        }
    }
}
/// The place of the leaves of one file, until it is complete.
#[derive(Debug)]
pub(super) enum Home {
    Packs,
    Assembly(Box<Assembly>),
    Reference(Arc<DiskStore>, FileBlocks),
}

impl Home {
    /// Takes the next leaf, which holds `len` bytes of the file; returns whether it did, so that it need
    /// not be put.
    pub(super) fn push(&mut self, leaf: &Block, len: u64) -> Result<bool, ImportError> {
        match self {
            Self::Packs => Ok(false),
            Self::Assembly(assembly) => Ok(assembly.push(leaf, len)?),
            Self::Reference(_, blocks) => {
                blocks.push(leaf)?;
                Ok(true)
            }
        }
    }
}
