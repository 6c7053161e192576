//! `cidfs init`: a new repository.

use std::io::Write as _;

use clap::Args;

use crate::cli::Global;
use crate::cli::failure::{Failure, told};
use crate::cli::output::Output;
use crate::node;

/// Make a repository
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs init
  cidfs --repo /srv/cidfs init
  cidfs init --profile=unixfs-v0-2015    files get the CIDs that they used to have
  cidfs init --preset=offline            its daemon talks to nobody")]
pub(crate) struct Init {
    /// How files become blocks: unixfs-v1-2025 or unixfs-v0-2015
    #[arg(short, long, value_name = "NAME")]
    profile: Option<String>,
    /// Whom its daemon talks to: public, lan, peers-only or offline; site comes by `cidfs config`, since it needs
    /// network.site first
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
}

impl Init {
    /// Makes it.
    pub(crate) fn run(&self, global: &Global) -> Result<(), Failure> {
        let repo = global.repository()?;
        if let Some(profile) = &self.profile {
            let known = crate::unixfs::import::Profile::by_name(profile);
            known.ok_or_else(|| told(crate::api::add::unknown_profile(profile)))?;
        }
        let values = [("import.profile", &self.profile), ("network.preset", &self.preset)];
        let values = values.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        for (key, value) in values.clone() {
            node::config::check(key, value).map_err(Failure::usage)?;
        }
        node::init(&repo)?;
        for (key, value) in values {
            node::config::set(&repo, key, value).map_err(node::NodeError::from)?;
        }
        let mut out = Output::new();
        out.line(format!("initialized cidfs repository at {}", repo.display()))?;
        Ok(out.flush()?)
    }
}
