//! Where the leaves of one big file go.

use std::sync::Arc;

use super::error::ImportError;
use super::options::{BigFiles, ImportOptions};
use super::source::Source;
use crate::block::Block;
use crate::store::{Assembly, DiskStore, FileBlocks};
/// The place of the leaves of one file, until it is complete.
#[derive(Debug)]
pub(super) enum Home {
    Packs,
    Assembly(Box<Assembly>),
    Reference(Arc<DiskStore>, FileBlocks),
}

impl Home {
    pub(super) fn of(options: &ImportOptions, source: &mut Source) -> Result<Self, ImportError> {
        Ok(match &options.big_files {
            BigFiles::Assembled(store) if options.has_provable_leaves() => {
                Self::Assembly(Box::new(source.assemble_in(store)?))
            }
            BigFiles::Assembled(_) | BigFiles::Packed => Self::Packs,
            BigFiles::Referred(store) => {
                Self::Reference(Arc::clone(store), source.blocks_in(store)?)
            }
        })
    }

    /// The same for a stream, which lies nowhere.
    pub(super) fn of_stream(options: &ImportOptions) -> Result<Self, ImportError> {
        Ok(match &options.big_files {
            BigFiles::Assembled(store) if options.has_provable_leaves() => {
                Self::Assembly(Box::new(store.assemble()?))
            }
            BigFiles::Assembled(_) | BigFiles::Packed | BigFiles::Referred(_) => Self::Packs,
        })
    }

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

    /// Makes what was taken durable, when all of the file was and it did not change meanwhile.
    pub(super) fn finish(self) -> Result<(), ImportError> {
        match self {
            Self::Packs => {}
            Self::Assembly(assembly) => assembly.finish()?,
            Self::Reference(store, blocks) => store.refer(blocks)?,
        }
        Ok(())
    }
}
