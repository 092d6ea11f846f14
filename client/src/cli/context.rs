//! What every command needs: the client, made when it is first asked for.

use anyhow::Result;
use wharf_client::Client;

use crate::cli::{args::Global, autostart};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// A client; with `--autostart`, of a supervisor that is there.
    pub(crate) async fn client(&self) -> Result<Client> {
        let client = self.plain_client()?;
        if self.global.autostart {
            autostart::ensure(&client).await?;
        }
        Ok(client)
    }

    /// A client that has not looked whether anybody listens.
    pub(crate) fn plain_client(&self) -> Result<Client> {
        let client = wharf_client::connect(&self.global.address)?;
        Ok(match &self.global.namespace {
            Some(name) => client.with_namespace(name)?,
            None => client,
        })
    }
}
