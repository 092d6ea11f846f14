//! What every command needs: the client, made when it is first asked for.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use wharf_client::{Client, Tls};

use crate::cli::{args::Global, autostart};

const TCP_NEEDS: &str = "mutual TLS takes --tls-ca, --tls-cert and --tls-key, all three";

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

    /// All three files or none.
    fn tls(&self) -> Result<Option<Tls>> {
        let Global { tls_ca, tls_cert, tls_key, .. } = &self.global;
        let (ca, cert, key) = match (tls_ca, tls_cert, tls_key) {
            (None, None, None) => return Ok(None),
            (Some(ca), Some(cert), Some(key)) => (ca, cert, key),
            _ => bail!("{TCP_NEEDS}"),
        };
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Some(Tls { ca: read(ca)?, cert: read(cert)?, key: read(key)? }))
    }

    /// A client that has not looked whether anybody listens.
    pub(crate) fn plain_client(&self) -> Result<Client> {
        // A variable that is set to nothing is one that is not set.
        let address = match self.global.address.as_str() {
            "" => wharf_client::Address::DEFAULT,
            given => given,
        };
        let client = match self.tls()? {
            Some(tls) => wharf_client::connect_tls(address, tls),
            None => wharf_client::connect(address),
        };
        let client = client.map_err(|error| match error {
            wharf_client::Error::Address { .. } if address.starts_with("tcp:") => {
                anyhow::Error::from(error).context(TCP_NEEDS)
            }
            error => error.into(),
        })?;
        Ok(match &self.global.namespace {
            Some(name) if !name.is_empty() => client.with_namespace(name)?,
            _ => client,
        })
    }
}
