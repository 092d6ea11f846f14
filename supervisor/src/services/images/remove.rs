//! Names and images taken away.

use super::{
    Error, Image, Images,
    record::{NameRecord, key},
};
use crate::{
    drivers::oci::Reference,
    faultpoint,
    ids::Namespace,
    services::events::Event,
    store::{Durability, Ops},
};

/// Whether to take away what is still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Refuse.
    No,
    /// Take it away; a container keeps the layers that it runs on.
    Yes,
}

/// What is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names.
    pub untagged: Vec<String>,
    /// The image's id, digests of blobs and chain ids of layers.
    pub deleted: Vec<String>,
}

impl Images {
    /// Removes a name, and the image with its last one; given by its id, the image with its only
    /// name, or with all of them if forced.
    ///
    /// # Errors
    /// When there is none, or it is in use and not forced.
    pub async fn remove(
        &self,
        namespace: &Namespace,
        asked: &str,
        force: Force,
    ) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        {
            let _records = self.inner.records.lock().await;
            let mut image = self.get(namespace, asked)?;
            let given_name = asked
                .parse::<Reference>()
                .map(|reference| reference.to_string())
                .ok()
                .filter(|name| image.has_name(name));
            let mut ops = Ops::new();
            match given_name {
                Some(name) if image.names.len() > 1 => {
                    image.drop_name(&name);
                    untag(&mut ops, &image, &name);
                    ops.put(&image.key(), &image)?;
                    let event = Event::now(namespace, "image.untag", &image.id.to_string())
                        .with("reference", &name);
                    self.inner.events.append(&mut ops, &event)?;
                    removed.untagged.push(name);
                }
                given_name => {
                    self.check_removable(&image, asked, given_name.is_some(), force)?;
                    for name in &image.names {
                        untag(&mut ops, &image, &name.reference);
                        removed.untagged.push(name.reference.clone());
                    }
                    ops.delete::<Image>(&image.key());
                    let mut event = Event::now(namespace, "image.delete", &image.id.to_string());
                    if let Some(name) = image.names.first() {
                        event = event.with("reference", &name.reference);
                    }
                    self.inner.events.append(&mut ops, &event)?;
                    removed.deleted.push(image.id.to_string());
                }
            }
            faultpoint::reach("untag.checked").await;
            self.inner.store.commit(ops, Durability::Power).await?;
            faultpoint::reach("untag.committed").await;
        }
        if !removed.deleted.is_empty() {
            let collected = self.collect().await?;
            let id = removed.deleted[0].clone();
            let gone = collected.blobs.into_iter().chain(collected.layers).map(|d| d.to_string());
            removed.deleted.extend(gone.filter(|digest| *digest != id));
        }
        Ok(removed)
    }

    fn check_removable(
        &self,
        image: &Image,
        asked: &str,
        by_name: bool,
        force: Force,
    ) -> Result<(), Error> {
        if force == Force::Yes {
            return Ok(());
        }
        if !by_name && image.names.len() > 1 {
            return Err(Error::SeveralNames {
                image: asked.into(),
                names: image.names.iter().map(|n| n.reference.clone()).collect(),
            });
        }
        let users = self.inner.users.get();
        match users.and_then(|users| users.user_of(&image.namespace, &image.id)) {
            Some(container) => Err(Error::InUse { image: asked.into(), container }),
            None => Ok(()),
        }
    }
}

fn untag(ops: &mut Ops, image: &Image, reference: &str) {
    ops.delete::<NameRecord>(&key(&image.namespace, reference));
}
