//! What the command lines of clients have in common (feature `cli`): which cluster they speak to.

use std::path::PathBuf;

use flame_core::config::{ClientConfig, Endpoint};

use crate::error::Error;

/// Flags that name the cluster; for `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterArgs {
    /// Session manager, e.g. http://10.0.0.1:8080.
    #[arg(short, long, value_name = "URL")]
    pub endpoint: Option<Endpoint>,
    /// Configuration file instead of ~/.flame/flame.yaml.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

impl ClusterArgs {
    /// The configuration: the file (see [`ClientConfig::load`]), the environment, and above both
    /// the endpoint of the command line.
    ///
    /// # Errors
    /// [`Error::Config`] names the file or the variable.
    pub fn load(&self) -> Result<ClientConfig, Error> {
        Ok(ClientConfig::load_for(
            self.config.as_deref(),
            self.endpoint.clone(),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    #[test]
    fn the_command_line_is_above_all() {
        let line = Line::try_parse_from(["x", "-e", "http://given:5"]).expect("valid");
        assert_eq!(
            line.cluster.load().expect("valid").endpoint.url(),
            "http://given:5"
        );
        let line = Line::try_parse_from(["x", "--config", "/nonexistent.yaml"]).expect("valid");
        let error = crate::error::report(&line.cluster.load().expect_err("there is none"));
        assert!(error.contains("/nonexistent.yaml"), "{error}");
        assert!(Line::try_parse_from(["x", "-e", "localhost"]).is_err());
    }
}
