//! wharf.v1.Volumes.

use tonic::{Request, Response, Status};
use wharf_proto::v1::{self, volumes_server};

use super::{
    status::from_fault,
    translate::{namespace, prune_filter, timestamp},
};
use crate::services::volumes::{Error, NewVolume, Volume, Volumes};

/// The service.
#[derive(Clone, Debug)]
pub struct VolumesApi {
    /// What it translates for.
    pub volumes: Volumes,
}

type Answer<T> = Result<Response<T>, Status>;

#[allow(clippy::needless_pass_by_value)]
fn fault(error: Error) -> Status {
    from_fault(&error)
}

#[tonic::async_trait]
impl volumes_server::Volumes for VolumesApi {
    async fn create(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Answer<v1::CreateVolumeResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let new = NewVolume {
            name: name.map(str::parse).transpose().map_err(|e| fault(Error::Name(e)))?,
            driver: request.driver,
            options: request.options.into_iter().collect(),
            labels: request.labels.into_iter().collect(),
        };
        let volume = self.volumes.create(&namespace, new).await.map_err(fault)?;
        let volume = Some(volume_message(&self.volumes, &volume));
        Ok(Response::new(v1::CreateVolumeResponse { volume }))
    }

    async fn get(&self, request: Request<v1::GetVolumeRequest>) -> Answer<v1::GetVolumeResponse> {
        let namespace = namespace(&request)?;
        let volume = self.volumes.get(&namespace, &request.into_inner().volume).map_err(fault)?;
        let volume = Some(volume_message(&self.volumes, &volume));
        Ok(Response::new(v1::GetVolumeResponse { volume }))
    }

    async fn list(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Answer<v1::ListVolumesResponse> {
        let namespace = namespace(&request)?;
        let users = self.volumes.users();
        let volumes = self.volumes.list(&namespace).map_err(fault)?;
        let volumes = volumes.iter().map(|volume| {
            let mut message = volume_message(&self.volumes, volume);
            let key = (namespace.clone(), volume.name.clone());
            message.used_by = users.get(&key).cloned().unwrap_or_default();
            message
        });
        Ok(Response::new(v1::ListVolumesResponse { volumes: volumes.collect() }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Answer<v1::DeleteVolumeResponse> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().volume;
        self.volumes.remove(&namespace, &name).await.map_err(fault)?;
        Ok(Response::new(v1::DeleteVolumeResponse {}))
    }

    async fn prune(&self, request: Request<v1::PruneVolumesRequest>) -> Answer<v1::PruneResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let filter = prune_filter(request.filter);
        let wanted = |volume: &Volume| {
            (request.all || volume.anonymous) && filter.lets(&volume.labels, volume.created_unix_ns)
        };
        let (gone, bytes) = self.volumes.prune(&namespace, wanted).await.map_err(fault)?;
        Ok(Response::new(v1::PruneResponse {
            deleted: gone.into_iter().map(|volume| volume.name.to_string()).collect(),
            untagged: Vec::new(),
            reclaimed_bytes: bytes,
        }))
    }
}

pub(super) fn volume_message(volumes: &Volumes, volume: &Volume) -> v1::Volume {
    v1::Volume {
        name: volume.name.to_string(),
        driver: "local".into(),
        mountpoint: volumes.source(volume).display().to_string(),
        anonymous: volume.anonymous,
        labels: volume.labels.clone().into_iter().collect(),
        options: volume.options.clone().into_iter().collect(),
        created_at: Some(timestamp(volume.created_unix_ns)),
        used_by: Vec::new(),
    }
}
