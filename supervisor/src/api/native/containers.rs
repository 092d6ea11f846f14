//! wharf.v1.Containers, but for its streams (`streams`).

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wharf_proto::v1::{self, containers_server};

use super::{
    images::image_message,
    list,
    status::from_fault,
    streams,
    translate::{
        container, duration, exit, namespace, new_container, process, prune_filter, resources,
        restart, signal, window,
    },
};
use crate::services::{
    containers::{Change, CommitRequest, Containers, Error, record::Record, spec::Signal},
    upgrade::Drain,
};

/// The service.
#[derive(Clone, Debug)]
pub struct ContainersApi {
    /// What it translates for.
    pub containers: Containers,
    /// Ends the streams that end by themselves.
    pub drain: Drain,
}

type Answer<T> = Result<Response<T>, Status>;

fn fault(error: Error) -> Status {
    from_fault(&error)
}

impl ContainersApi {
    async fn shown(&self, records: &[Arc<Record>], with_sizes: bool) -> Vec<v1::Container> {
        let mut shown: Vec<_> = records.iter().map(|r| container(&self.containers, r)).collect();
        if !with_sizes {
            return shown;
        }
        let (containers, records) = (self.containers.clone(), records.to_vec());
        let measured = tokio::task::spawn_blocking(move || {
            records.iter().map(|r| containers.sizes(r)).collect::<Vec<_>>()
        });
        for (one, (own, root)) in shown.iter_mut().zip(measured.await.unwrap_or_default()) {
            (one.size_rw_bytes, one.size_root_bytes) = (Some(own), Some(root));
        }
        shown
    }
}

#[tonic::async_trait]
impl containers_server::Containers for ContainersApi {
    async fn create(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let namespace = namespace(&request)?;
        let new = new_container(request.into_inner().spec).map_err(fault)?;
        let record = self.containers.create(&namespace, new).await.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::CreateContainerResponse { container }))
    }

    async fn run(
        &self,
        request: Request<v1::RunContainerRequest>,
    ) -> Answer<v1::RunContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let new = new_container(request.spec).map_err(fault)?;
        let window = window(request.window);
        let record = self.containers.run(&namespace, new, window).await.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::RunContainerResponse { container }))
    }

    async fn get(
        &self,
        request: Request<v1::GetContainerRequest>,
    ) -> Answer<v1::GetContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let record = self.containers.get(&namespace, &request.container).map_err(fault)?;
        let oci_spec_json =
            if request.with_oci_spec { self.containers.oci_spec(&record) } else { String::new() };
        let container = self.shown(&[record], request.with_size).await.pop();
        Ok(Response::new(v1::GetContainerResponse { container, oci_spec_json }))
    }

    async fn list(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let records = self.containers.list(&namespace);
        let page =
            list::page(&records, &filter, request.page_size, &request.page_token).map_err(fault)?;
        let containers = self.shown(&page.records, request.with_sizes).await;
        let next_page_token = page.next;
        Ok(Response::new(v1::ListContainersResponse { containers, next_page_token }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateContainerRequest>,
    ) -> Answer<v1::UpdateContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let name = request.name.map(|name| name.parse()).transpose();
        let policy = request.restart.map(|policy| restart("restart", &policy));
        let change = Change {
            name: name.map_err(|e| fault(Error::field("name", e)))?,
            labels: request.labels.map(|set| set.labels.into_iter().collect()),
            resources: request.resources.map(resources),
            restart: policy.transpose().map_err(fault)?,
            if_revision: request.if_revision,
        };
        let record =
            self.containers.update(&namespace, &request.container, change).await.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::UpdateContainerResponse { container }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteContainerRequest>,
    ) -> Answer<v1::DeleteContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        self.containers
            .delete(&namespace, &request.container, request.force, request.volumes)
            .await
            .map_err(fault)?;
        Ok(Response::new(v1::DeleteContainerResponse {}))
    }

    async fn start(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let record = self
            .containers
            .start(&namespace, &request.container, window(request.window))
            .await
            .map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::StartContainerResponse { container }))
    }

    async fn stop(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let timeout = request.timeout.map(|d| duration("timeout", d)).transpose().map_err(fault)?;
        let signal = signal("signal", &request.signal).map_err(fault)?;
        let record = self
            .containers
            .stop(&namespace, &request.container, signal, timeout)
            .await
            .map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::StopContainerResponse { container }))
    }

    async fn kill(
        &self,
        request: Request<v1::KillContainerRequest>,
    ) -> Answer<v1::KillContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let signal = signal("signal", &request.signal).map_err(fault)?.unwrap_or(Signal::KILL);
        self.containers.kill(&namespace, &request.container, signal).await.map_err(fault)?;
        Ok(Response::new(v1::KillContainerResponse {}))
    }

    async fn wait(
        &self,
        request: Request<v1::WaitContainerRequest>,
    ) -> Answer<v1::WaitContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let end = self
            .containers
            .wait(&namespace, &request.container, request.until_removed)
            .await
            .map_err(fault)?;
        Ok(Response::new(v1::WaitContainerResponse { exit: end.as_ref().map(exit) }))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseContainerRequest>,
    ) -> Answer<v1::PauseContainerResponse> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().container;
        let record = self.containers.pause(&namespace, &name).await.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::PauseContainerResponse { container }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeContainerRequest>,
    ) -> Answer<v1::ResumeContainerResponse> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().container;
        let record = self.containers.resume(&namespace, &name).await.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::ResumeContainerResponse { container }))
    }

    async fn restart(
        &self,
        request: Request<v1::RestartContainerRequest>,
    ) -> Answer<v1::RestartContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let timeout = request.timeout.map(|d| duration("timeout", d)).transpose().map_err(fault)?;
        let signal = signal("signal", &request.signal).map_err(fault)?;
        let name = &request.container;
        let restarted = self.containers.restart(&namespace, name, signal, timeout).await;
        let record = restarted.map_err(fault)?;
        let container = Some(container(&self.containers, &record));
        Ok(Response::new(v1::RestartContainerResponse { container }))
    }

    async fn processes(
        &self,
        request: Request<v1::ProcessesRequest>,
    ) -> Answer<v1::ProcessesResponse> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().container;
        let found = self.containers.processes(&namespace, &name).await.map_err(fault)?;
        let processes = found.into_iter().map(process).collect();
        Ok(Response::new(v1::ProcessesResponse { processes }))
    }

    type StatsStream = ReceiverStream<Result<v1::StatsResponse, Status>>;

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Answer<Self::StatsStream> {
        let namespace = namespace(&request)?;
        streams::stats::serve(&self.containers, &namespace, &request.into_inner())
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Answer<v1::ResizeResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let window = window(request.window);
        self.containers
            .resize(&namespace, &request.container, &request.exec_id, window)
            .await
            .map_err(fault)?;
        Ok(Response::new(v1::ResizeResponse {}))
    }

    async fn prune(
        &self,
        request: Request<v1::PruneContainersRequest>,
    ) -> Answer<v1::PruneResponse> {
        let namespace = namespace(&request)?;
        let filter = prune_filter(request.into_inner().filter);
        let (deleted, reclaimed_bytes) =
            self.containers.prune(&namespace, &filter).await.map_err(fault)?;
        Ok(Response::new(v1::PruneResponse { deleted, untagged: Vec::new(), reclaimed_bytes }))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitContainerRequest>,
    ) -> Answer<v1::CommitContainerResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let commit = CommitRequest {
            container: request.container,
            name: request.name,
            message: request.message,
            author: request.author,
            changes: request.changes,
            keep_running: request.keep_running,
        };
        let image = self.containers.commit(&namespace, commit).await.map_err(fault)?;
        Ok(Response::new(v1::CommitContainerResponse { image: Some(image_message(&image)) }))
    }

    type ExecStream = ReceiverStream<Result<v1::ExecResponse, Status>>;

    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Answer<Self::ExecStream> {
        let namespace = namespace(&request)?;
        streams::exec::serve(&self.containers, &self.drain, namespace, request.into_inner()).await
    }

    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Answer<Self::AttachStream> {
        let namespace = namespace(&request)?;
        streams::attach::serve(&self.containers, &self.drain, namespace, request.into_inner()).await
    }

    type LogsStream = ReceiverStream<Result<v1::LogsResponse, Status>>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let namespace = namespace(&request)?;
        streams::logs::serve(&self.containers, &namespace, request.into_inner()).await
    }
}
