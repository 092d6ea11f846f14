//! The calls with one answer, each with its deadline.
//!
//! A call that changes something carries a request id: when the connection breaks it is sent again,
//! for as long as the client's patience lasts, and the supervisor does it once. A deadline that passes
//! leaves open whether the call took effect.

use std::time::{Duration, Instant};

use wharf_proto::v1::{
    CommitContainerRequest, Container, ContainerFilter, ContainerSpec, CreateContainerRequest,
    CreateVolumeRequest, DeleteContainerRequest, DeleteImageRequest, DeleteImageResponse,
    DeleteVolumeRequest, DiskUsageRequest, DiskUsageResponse, Exit, GetContainerRequest,
    GetContainerResponse, GetImageRequest, GetImageResponse, GetVolumeRequest, Image,
    ImageHistoryRequest, ImageHistoryResponse, InfoRequest, InfoResponse, KillContainerRequest,
    ListContainersRequest, ListImagesRequest, ListVolumesRequest, PauseContainerRequest, Process,
    ProcessesRequest, PruneContainersRequest, PruneFilter, PruneImagesRequest, PruneResponse,
    PruneVolumesRequest, ResizeRequest, RestartContainerRequest, ResumeContainerRequest,
    RunContainerRequest, ShutdownRequest, ShutdownResponse, StartContainerRequest,
    StopContainerRequest, TagImageRequest, UpdateContainerRequest, VersionRequest, VersionResponse,
    Volume, WaitContainerRequest, WindowSize,
};

use crate::{connection::Client, error::Error};

/// For what only reads or writes metadata.
const QUICK: Duration = Duration::from_secs(30);
/// For what prepares file systems, starts or ends processes.
const SLOW: Duration = Duration::from_secs(120);
/// For what reads or writes as many bytes as there are.
const LONG: Duration = Duration::from_secs(3600);
/// What a container has to stop when neither it nor the caller says more.
const DEFAULT_STOP: Duration = Duration::from_secs(10);

/// `ask!(client, "Get", QUICK, request, containers.get)`: a call that changes nothing.
macro_rules! ask {
    ($client:expr, $call:literal, $deadline:expr, $request:expr, $service:ident.$method:ident) => {{
        let request = $request;
        $client.ask($call, $deadline, move || {
            let (mut service, request) = ($client.$service(), request.clone());
            async move { service.$method(request).await }
        })
    }};
}

/// `mutate!(client, "Pause", QUICK, request, containers.pause)`: a call that changes something.
macro_rules! mutate {
    ($client:expr, $call:literal, $deadline:expr, $request:expr, $service:ident.$method:ident) => {
        $client.mutate($call, $deadline, $request, |request| {
            let mut service = $client.$service();
            async move { service.$method(request).await }
        })
    };
}
pub(crate) use {ask, mutate};

fn some<T>(call: &'static str, what: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::Answer { call, what })
}

/// Each fails with [`Error::Refused`] when the server refuses, [`Error::Connect`] when nobody
/// listens, [`Error::Broken`] or [`Error::Deadline`] when the answer did not come.
impl Client {
    /// Creates a container and starts nothing.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<Container, Error> {
        let request = CreateContainerRequest { spec: Some(spec) };
        let answer = mutate!(self, "Create", SLOW, request, containers.create).await?;
        some("Create", "the container", answer.container)
    }

    /// Creates and starts. `window` is the terminal's size at the start.
    pub async fn run_container(
        &self,
        spec: ContainerSpec,
        window: Option<WindowSize>,
    ) -> Result<Container, Error> {
        let request = RunContainerRequest { spec: Some(spec), window };
        let answer = mutate!(self, "Run", SLOW, request, containers.run).await?;
        some("Run", "the container", answer.container)
    }

    /// One container, by name, id or unique prefix of an id.
    pub async fn container(&self, container: &str) -> Result<Container, Error> {
        some("Get", "the container", self.get(container, false).await?.container)
    }

    /// One container and its OCI spec as JSON.
    pub async fn container_with_spec(&self, container: &str) -> Result<(Container, String), Error> {
        let answer = self.get(container, true).await?;
        Ok((some("Get", "the container", answer.container)?, answer.oci_spec_json))
    }

    async fn get(&self, container: &str, oci_spec: bool) -> Result<GetContainerResponse, Error> {
        let request = GetContainerRequest {
            container: container.to_owned(),
            with_oci_spec: oci_spec,
            with_size: false,
        };
        ask!(self, "Get", QUICK, request, containers.get).await
    }

    /// All containers that match, newest first, all pages.
    pub async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>, Error> {
        self.list_containers_with(filter, false).await
    }

    /// [`Client::list_containers`], with the sizes of their root file systems if asked for.
    pub async fn list_containers_with(
        &self,
        filter: ContainerFilter,
        with_sizes: bool,
    ) -> Result<Vec<Container>, Error> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListContainersRequest {
                filter: Some(filter.clone()),
                page_size: 0,
                page_token,
                with_sizes,
            };
            let answer = ask!(self, "List", QUICK, request, containers.list).await?;
            found.extend(answer.containers);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Changes name, labels or resources.
    pub async fn update_container(
        &self,
        request: UpdateContainerRequest,
    ) -> Result<Container, Error> {
        let answer = mutate!(self, "Update", QUICK, request, containers.update).await?;
        some("Update", "the container", answer.container)
    }

    /// Deletes a container; `force` kills it first if it runs.
    /// With `volumes`, its volumes that have no name too.
    pub async fn delete_container(
        &self,
        container: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let request = DeleteContainerRequest { container: container.to_owned(), force, volumes };
        mutate!(self, "Delete", SLOW, request, containers.delete).await?;
        Ok(())
    }

    /// Answers when the container's process has been executed.
    pub async fn start_container(
        &self,
        container: &str,
        window: Option<WindowSize>,
    ) -> Result<Container, Error> {
        let request = StartContainerRequest { container: container.to_owned(), window };
        let answer = mutate!(self, "Start", SLOW, request, containers.start).await?;
        some("Start", "the container", answer.container)
    }

    /// Answers when the container has stopped. `timeout` (the container's own if unset) is what it
    /// has before SIGKILL; an empty `signal` is the container's own.
    pub async fn stop_container(
        &self,
        container: &str,
        timeout: Option<Duration>,
        signal: &str,
    ) -> Result<Container, Error> {
        let own = match timeout {
            Some(timeout) => timeout,
            None => self.own_stop_timeout(container).await?,
        };
        let request = StopContainerRequest {
            container: container.to_owned(),
            timeout: timeout.and_then(|timeout| timeout.try_into().ok()),
            signal: signal.to_owned(),
        };
        let deadline = own.saturating_add(SLOW);
        let answer = mutate!(self, "Stop", deadline, request, containers.stop).await?;
        some("Stop", "the container", answer.container)
    }

    async fn own_stop_timeout(&self, container: &str) -> Result<Duration, Error> {
        let spec = self.container(container).await?.spec.unwrap_or_default();
        Ok(spec.stop_timeout.and_then(|own| own.try_into().ok()).unwrap_or(DEFAULT_STOP))
    }

    /// Stops a container, if it runs, and starts it. As [`Self::stop_container`] else.
    pub async fn restart_container(
        &self,
        container: &str,
        timeout: Option<Duration>,
        signal: &str,
    ) -> Result<Container, Error> {
        let own = match timeout {
            Some(timeout) => timeout,
            None => self.own_stop_timeout(container).await?,
        };
        let request = RestartContainerRequest {
            container: container.to_owned(),
            timeout: timeout.and_then(|timeout| timeout.try_into().ok()),
            signal: signal.to_owned(),
        };
        let deadline = own.saturating_add(SLOW);
        let answer = mutate!(self, "Restart", deadline, request, containers.restart).await?;
        some("Restart", "the container", answer.container)
    }

    /// Freezes a container; one that is frozen is as wanted.
    pub async fn pause_container(&self, container: &str) -> Result<Container, Error> {
        let request = PauseContainerRequest { container: container.to_owned() };
        let answer = mutate!(self, "Pause", QUICK, request, containers.pause).await?;
        some("Pause", "the container", answer.container)
    }

    /// Lets a frozen container go on; one that runs is as wanted.
    pub async fn resume_container(&self, container: &str) -> Result<Container, Error> {
        let request = ResumeContainerRequest { container: container.to_owned() };
        let answer = mutate!(self, "Resume", QUICK, request, containers.resume).await?;
        some("Resume", "the container", answer.container)
    }

    /// The processes of a running container, as the host sees them.
    pub async fn processes(&self, container: &str) -> Result<Vec<Process>, Error> {
        let request = ProcessesRequest { container: container.to_owned() };
        let answer = ask!(self, "Processes", QUICK, request, containers.processes).await?;
        Ok(answer.processes)
    }

    /// Sends a signal, by name or number; empty is SIGKILL.
    pub async fn kill_container(&self, container: &str, signal: &str) -> Result<(), Error> {
        let request =
            KillContainerRequest { container: container.to_owned(), signal: signal.to_owned() };
        mutate!(self, "Kill", QUICK, request, containers.kill).await?;
        Ok(())
    }

    /// Waits, without a deadline, for the end of the incarnation that runs now (or, with
    /// `until_removed`, of the container). Goes on over a restart of the supervisor. None: it was
    /// never started.
    pub async fn wait_container(
        &self,
        container: &str,
        until_removed: bool,
    ) -> Result<Option<Exit>, Error> {
        let mut backoff = self.backoff();
        let mut reached = false;
        loop {
            let request = WaitContainerRequest { container: container.to_owned(), until_removed };
            let asked_at = Instant::now();
            let error = match self.containers().wait(request).await {
                Ok(answer) => return Ok(answer.into_inner().exit),
                Err(status) => self.error("Wait", status),
            };
            // A supervisor that is not there at the first try is not one that restarts.
            reached |= !matches!(error, Error::Connect { .. });
            if !reached {
                return Err(error);
            }
            backoff.opened(asked_at);
            backoff.retry(error).await?;
        }
    }

    /// Sets the size of the terminal of a container or, with an id, of an exec in it.
    pub async fn resize(
        &self,
        container: &str,
        exec_id: &str,
        window: WindowSize,
    ) -> Result<(), Error> {
        let request = ResizeRequest {
            container: container.to_owned(),
            exec_id: exec_id.to_owned(),
            window: Some(window),
        };
        mutate!(self, "Resize", QUICK, request, containers.resize).await?;
        Ok(())
    }

    /// All images whose name holds `filter`, all pages; empty: all.
    pub async fn list_images(&self, filter: &str) -> Result<Vec<Image>, Error> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListImagesRequest { filter: filter.to_owned(), page_size: 0, page_token };
            let answer = ask!(self, "List images", QUICK, request, images.list).await?;
            found.extend(answer.images);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// One image and its config blob, by reference, id or unique prefix of an id.
    pub async fn image(&self, image: &str) -> Result<(Image, String), Error> {
        let request = GetImageRequest { image: image.to_owned() };
        let answer: GetImageResponse = ask!(self, "Get image", QUICK, request, images.get).await?;
        Ok((some("Get image", "the image", answer.image)?, answer.config_json))
    }

    /// Removes a name of an image, and the image with its last name; `force` removes all of it.
    pub async fn delete_image(
        &self,
        image: &str,
        force: bool,
    ) -> Result<DeleteImageResponse, Error> {
        let request = DeleteImageRequest { image: image.to_owned(), force };
        mutate!(self, "Delete image", SLOW, request, images.delete).await
    }

    /// Makes an image of a container's changes.
    pub async fn commit_container(&self, request: CommitContainerRequest) -> Result<Image, Error> {
        let answer = mutate!(self, "Commit", LONG, request, containers.commit).await?;
        some("Commit", "the image", answer.image)
    }

    /// How an image came about, the newest step first.
    pub async fn image_history(&self, image: &str) -> Result<ImageHistoryResponse, Error> {
        let request = ImageHistoryRequest { image: image.to_owned() };
        ask!(self, "History", QUICK, request, images.history).await
    }

    /// Gives an image one more name, which the image that has it loses.
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<Image, Error> {
        let request = TagImageRequest { image: image.to_owned(), name: name.to_owned() };
        let answer = mutate!(self, "Tag", QUICK, request, images.tag).await?;
        some("Tag", "the image", answer.image)
    }

    /// Makes a volume; one that is there with the same options is as wanted.
    pub async fn create_volume(&self, request: CreateVolumeRequest) -> Result<Volume, Error> {
        let answer = mutate!(self, "Create volume", QUICK, request, volumes.create).await?;
        some("Create volume", "the volume", answer.volume)
    }

    /// One volume.
    pub async fn volume(&self, volume: &str) -> Result<Volume, Error> {
        let request = GetVolumeRequest { volume: volume.to_owned() };
        let answer = ask!(self, "Get volume", QUICK, request, volumes.get).await?;
        some("Get volume", "the volume", answer.volume)
    }

    /// All volumes, in the order of their names.
    pub async fn list_volumes(&self) -> Result<Vec<Volume>, Error> {
        let request = ListVolumesRequest {};
        Ok(ask!(self, "List volumes", QUICK, request, volumes.list).await?.volumes)
    }

    /// Removes a volume that no container has.
    pub async fn delete_volume(&self, volume: &str) -> Result<(), Error> {
        let request = DeleteVolumeRequest { volume: volume.to_owned() };
        mutate!(self, "Delete volume", SLOW, request, volumes.delete).await?;
        Ok(())
    }

    /// Removes volumes that no container has: those without a name, or all.
    pub async fn prune_volumes(
        &self,
        all: bool,
        filter: PruneFilter,
    ) -> Result<PruneResponse, Error> {
        let request = PruneVolumesRequest { all, filter: Some(filter) };
        mutate!(self, "Prune volumes", LONG, request, volumes.prune).await
    }

    /// Removes images that are not needed: those without a name, or all that no container was made
    /// from.
    pub async fn prune_images(
        &self,
        all: bool,
        filter: PruneFilter,
    ) -> Result<PruneResponse, Error> {
        let request = PruneImagesRequest { all, filter: Some(filter) };
        mutate!(self, "Prune images", LONG, request, images.prune).await
    }

    /// Removes containers that do not run.
    pub async fn prune_containers(&self, filter: PruneFilter) -> Result<PruneResponse, Error> {
        let request = PruneContainersRequest { filter: Some(filter) };
        mutate!(self, "Prune containers", LONG, request, containers.prune).await
    }

    /// What everything takes on the disk.
    pub async fn disk_usage(&self) -> Result<DiskUsageResponse, Error> {
        ask!(self, "Disk usage", LONG, DiskUsageRequest {}, system.disk_usage).await
    }

    /// Ends all containers, within `timeout` (the server's own if unset); from then on the supervisor
    /// starts none.
    pub async fn shut_down(&self, timeout: Option<Duration>) -> Result<ShutdownResponse, Error> {
        let request = ShutdownRequest { timeout: timeout.and_then(|time| time.try_into().ok()) };
        let deadline = timeout.unwrap_or(LONG).saturating_add(SLOW);
        mutate!(self, "Shutdown", deadline, request, system.shutdown).await
    }

    /// Who answers.
    pub async fn version(&self) -> Result<VersionResponse, Error> {
        ask!(self, "Version", QUICK, VersionRequest {}, system.version).await
    }

    /// The supervisor and its host.
    pub async fn info(&self) -> Result<InfoResponse, Error> {
        ask!(self, "Info", QUICK, InfoRequest {}, system.info).await
    }
}
