//! Names and images taken away.

use super::{
    Error, Image, Images,
    record::{NameRecord, key},
};
use crate::{
    drivers::oci::Reference,
    faultpoint,
    ids::Namespace,
    services::{events::Event, requests},
    store::{Durability, Need, Ops},
};

/// Whether to take away what is still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Refuse.
    No,
    /// As Docker has it: what containers that have stopped were made from goes, and they keep the
    /// layers that they run on; an image that a container runs on loses the name, or stays.
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

/// What is to be done with the record.
enum Step {
    Untag(String),
    Delete,
}

impl Images {
    /// Removes a name, and the image with its last one; given by its id, the image with its only
    /// name, or with all of them if forced.
    ///
    /// # Errors
    /// When there is none, or it is in use and not forced, or a container runs on it.
    pub async fn remove(
        &self,
        namespace: &Namespace,
        asked: &str,
        force: Force,
    ) -> Result<Removed, Error> {
        let mut removed = self.forget(namespace, asked, force).await?;
        if !removed.deleted.is_empty() {
            let collected = self.collect().await?;
            let id = removed.deleted[0].clone();
            let gone = collected.blobs.into_iter().chain(collected.layers).map(|d| d.to_string());
            removed.deleted.extend(gone.filter(|digest| *digest != id));
        }
        Ok(removed)
    }

    /// [`Images::remove`] without the collection of what nobody needs any more.
    pub(super) async fn forget(
        &self,
        namespace: &Namespace,
        asked: &str,
        force: Force,
    ) -> Result<Removed, Error> {
        let _records = self.inner.records.lock().await;
        let mut removed = Removed::default();
        let mut image = match self.get(namespace, asked) {
            // By this same request, before it came again.
            Err(Error::NotFound { .. }) if requests::was_done() => return Ok(removed),
            found => found?,
        };
        let given_name = asked
            .parse::<Reference>()
            .map(|reference| reference.to_string())
            .ok()
            .filter(|name| image.has_name(name));
        let mut ops = Ops::new();
        ops.needs(Need::Removal);
        match self.step(&image, asked, given_name, force)? {
            Step::Untag(name) => {
                image.drop_name(&name);
                untag(&mut ops, &image, &name);
                ops.put(&image.key(), &image)?;
                let event = Event::now(namespace, "image.untag", &image.id.to_string())
                    .with("reference", &name);
                self.inner.events.append(&mut ops, &event)?;
                removed.untagged.push(name);
            }
            Step::Delete => {
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
        requests::stamp(&mut ops, None)?;
        faultpoint::reach("untag.checked").await;
        self.inner.store.commit(ops, Durability::Power).await?;
        faultpoint::reach("untag.committed").await;
        Ok(removed)
    }

    /// Whether a container was made from the image, or is being made from it at this moment.
    pub(super) fn is_used(&self, image: &Image) -> bool {
        let users = self.inner.users.get();
        users.is_some_and(|users| users.user_of(&image.namespace, &image.id).is_some())
            || self.inner.making.has(&image.id)
    }

    fn step(
        &self,
        image: &Image,
        asked: &str,
        given_name: Option<String>,
        force: Force,
    ) -> Result<Step, Error> {
        if let Some(name) = &given_name
            && image.names.len() > 1
        {
            return Ok(Step::Untag(name.clone()));
        }
        if force == Force::No && given_name.is_none() && image.names.len() > 1 {
            return Err(Error::SeveralNames {
                image: asked.into(),
                names: image.names.iter().map(|n| n.reference.clone()).collect(),
            });
        }
        let users = self.inner.users.get();
        let user = users.and_then(|users| users.user_of(&image.namespace, &image.id));
        let in_use = |container: String| Error::InUse { image: asked.into(), container };
        if self.inner.making.has(&image.id) {
            return Err(in_use("(one that is being made)".into()));
        }
        match (user, force, given_name) {
            (None, ..) => Ok(Step::Delete),
            (Some(user), Force::No, _) => Err(in_use(user.name)),
            (Some(user), Force::Yes, _) if !user.is_running => Ok(Step::Delete),
            // It goes on, and can be named again or pruned later.
            (Some(_), Force::Yes, Some(name)) => Ok(Step::Untag(name)),
            (Some(user), Force::Yes, None) => {
                Err(Error::Running { image: asked.into(), container: user.name })
            }
        }
    }
}

fn untag(ops: &mut Ops, image: &Image, reference: &str) {
    ops.delete::<NameRecord>(&key(&image.namespace, reference));
}
