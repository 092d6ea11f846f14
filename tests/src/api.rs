//! The API as a test speaks it: the generated clients, and the few calls that every test makes.

use anyhow::{Context as _, Result, bail, ensure};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use wharf_proto::v1::{
    AttachRequest, AttachResponse, AttachStart, Container, ContainerSpec, ContainerState,
    CreateContainerRequest, DeleteContainerRequest, ExecRequest, ExecResponse, ExecStart, Exit,
    GetContainerRequest, Image, ImportImageRequest, ImportStart, ListContainersRequest,
    LogsRequest, PullDone, PullImageRequest, RunContainerRequest, StartContainerRequest, Stream,
    WaitContainerRequest, attach_request, attach_response, containers_client::ContainersClient,
    events_client::EventsClient, exec_request, exec_response, images_client::ImagesClient,
    import_image_request, import_image_response, pull_image_response, system_client::SystemClient,
    volumes_client::VolumesClient,
};

use crate::wait::{self, soon};

/// Clients of all services of one daemon.
#[derive(Clone, Debug)]
pub struct Api {
    /// wharf.v1.Containers
    pub containers: ContainersClient<Channel>,
    /// wharf.v1.Images
    pub images: ImagesClient<Channel>,
    /// wharf.v1.Events
    pub events: EventsClient<Channel>,
    /// wharf.v1.System
    pub system: SystemClient<Channel>,
    /// wharf.v1.Volumes
    pub volumes: VolumesClient<Channel>,
}

/// What a process wrote and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes of stdout, or of the terminal.
    pub stdout: Vec<u8>,
    /// Bytes of stderr.
    pub stderr: Vec<u8>,
    /// The end, if it was seen.
    pub exit: Option<Exit>,
}

impl Outcome {
    /// stdout as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; -1 when no end was seen.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.exit.as_ref().map_or(-1, |e| e.exit_code)
    }

    pub(crate) fn take(&mut self, stream: Stream, data: &[u8]) {
        match stream {
            Stream::Stderr => self.stderr.extend_from_slice(data),
            Stream::Stdout | Stream::Unspecified => self.stdout.extend_from_slice(data),
        }
    }
}

/// A call under a request id; empty: under none.
#[must_use]
pub fn under<T>(id: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let (false, Ok(id)) = (id.is_empty(), id.parse()) {
        request.metadata_mut().insert(wharf_proto::v1::REQUEST_ID_KEY, id);
    }
    request
}

/// A spec of the busybox image with these arguments.
#[must_use]
pub fn spec<S: Into<String>>(args: impl IntoIterator<Item = S>) -> ContainerSpec {
    ContainerSpec {
        image: crate::image::BUSYBOX.into(),
        args: args.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

/// A spec of the busybox image that runs a shell script.
#[must_use]
pub fn script(text: &str) -> ContainerSpec {
    spec(["sh", "-c", text])
}

/// A container that runs until it is told to stop, and then stops at once.
#[must_use]
pub fn sleeper() -> ContainerSpec {
    script("trap 'exit 0' TERM; while :; do sleep 1000 & wait; done")
}

impl Api {
    /// Over one channel.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self {
            containers: ContainersClient::new(channel.clone()),
            images: ImagesClient::new(channel.clone()),
            events: EventsClient::new(channel.clone()),
            system: SystemClient::new(channel.clone()),
            volumes: VolumesClient::new(channel),
        }
    }

    /// Loads an archive; the answer's images.
    ///
    /// # Errors
    /// The call's status.
    pub async fn import(&mut self, tar: &[u8], name: &str) -> Result<Vec<Image>, Status> {
        let start = import_image_request::Kind::Start(ImportStart { name: name.into() });
        let data = tar.chunks(256 << 10).map(|c| import_image_request::Kind::Data(c.to_vec()));
        let requests: Vec<_> =
            [start].into_iter().chain(data).map(|k| ImportImageRequest { kind: Some(k) }).collect();
        let mut answers = self.images.import(tokio_stream::iter(requests)).await?.into_inner();
        let mut images = Vec::new();
        while let Some(answer) = answers.message().await? {
            if let Some(import_image_response::Kind::Done(done)) = answer.kind {
                images = done.images;
            }
        }
        Ok(images)
    }

    /// Pulls; how many progress messages there were, and the last answer.
    ///
    /// # Errors
    /// The call's status.
    pub async fn pull(&mut self, reference: &str) -> Result<(usize, PullDone), Status> {
        let request = PullImageRequest { reference: reference.into(), ..Default::default() };
        let mut answers = self.images.pull(request).await?.into_inner();
        let mut progress = 0;
        while let Some(answer) = answers.message().await? {
            match answer.kind {
                Some(pull_image_response::Kind::Done(done)) => return Ok((progress, done)),
                Some(pull_image_response::Kind::Progress(_)) => progress += 1,
                None => return Err(Status::internal("an empty answer to Pull")),
            }
        }
        Err(Status::internal("Pull ended without its last answer"))
    }

    /// Creates a container.
    ///
    /// # Errors
    /// The call's status.
    pub async fn create(&mut self, spec: ContainerSpec) -> Result<Container, Status> {
        let request = CreateContainerRequest { spec: Some(spec) };
        let answer = self.containers.create(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("Create answered no container"))
    }

    /// Starts one that was created.
    ///
    /// # Errors
    /// The call's status.
    pub async fn start(&mut self, id: &str) -> Result<Container, Status> {
        let request = StartContainerRequest { container: id.into(), window: None };
        let answer = self.containers.start(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("Start answered no container"))
    }

    /// Creates and starts.
    ///
    /// # Errors
    /// The call's status.
    pub async fn run(&mut self, spec: ContainerSpec) -> Result<Container, Status> {
        let request = RunContainerRequest { spec: Some(spec), window: None };
        let answer = self.containers.run(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("Run answered no container"))
    }

    /// Runs a [`sleeper`] that says "up" until it heeds SIGTERM: what comes before its trap is lost
    /// on a first process.
    ///
    /// # Errors
    /// The call's status, or that it takes too long.
    pub async fn run_sleeper(&mut self) -> Result<Container> {
        let container = self
            .run(script("trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"))
            .await?;
        wait::until("the sleeper is up", || {
            let (mut api, id) = (self.clone(), container.id.clone());
            async move { Ok((!api.logs(&id).await?.out().is_empty()).then_some(())) }
        })
        .await?;
        Ok(container)
    }

    /// Waits for the end of the present incarnation.
    ///
    /// # Errors
    /// The call's status, or that it takes too long.
    pub async fn wait(&mut self, id: &str) -> Result<Exit> {
        let request = WaitContainerRequest { container: id.into(), until_removed: false };
        let answer = soon(&format!("{id} stops"), self.containers.wait(request)).await?;
        answer.into_inner().exit.context("Wait answered no exit")
    }

    /// One container as it is now.
    ///
    /// # Errors
    /// The call's status.
    pub async fn get(&mut self, id: &str) -> Result<Container, Status> {
        let request = GetContainerRequest {
            container: id.into(),
            with_oci_spec: false,
            ..Default::default()
        };
        let answer = self.containers.get(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("Get answered no container"))
    }

    /// Deletes a container, killing it first.
    ///
    /// # Errors
    /// The call's status.
    pub async fn remove(&mut self, id: &str) -> Result<(), Status> {
        let request =
            DeleteContainerRequest { container: id.into(), force: true, ..Default::default() };
        self.containers.delete(request).await.map(drop)
    }

    /// All containers.
    ///
    /// # Errors
    /// The call's status.
    pub async fn list(&mut self) -> Result<Vec<Container>, Status> {
        let mut request = ListContainersRequest::default();
        let mut all = Vec::new();
        loop {
            let page = self.containers.list(request.clone()).await?.into_inner();
            all.extend(page.containers);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Deletes all containers.
    ///
    /// # Errors
    /// The call's status.
    pub async fn delete_all(&mut self) -> Result<(), Status> {
        for container in self.list().await? {
            match self.remove(&container.id).await {
                // auto_remove was faster.
                Err(status) if status.code() == Code::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The whole log of both streams.
    ///
    /// # Errors
    /// The call's status.
    pub async fn logs(&mut self, id: &str) -> Result<Outcome, Status> {
        let request = LogsRequest { container: id.into(), ..Default::default() };
        let mut answers = self.containers.logs(request).await?.into_inner();
        let mut outcome = Outcome::default();
        while let Some(answer) = answers.message().await? {
            for entry in answer.entries {
                outcome.take(entry.stream(), &entry.data);
            }
        }
        Ok(outcome)
    }

    /// Runs one process in a container to its end, with this stdin.
    ///
    /// # Errors
    /// The call's status, or that it takes too long.
    pub async fn exec(&mut self, start: ExecStart, stdin: &[u8]) -> Result<Outcome> {
        let mut requests = vec![exec_request::Kind::Start(start.clone())];
        if start.open_stdin {
            requests.extend(stdin.chunks(32 << 10).map(|c| exec_request::Kind::Stdin(c.to_vec())));
            requests.push(exec_request::Kind::CloseStdin(Default::default()));
        }
        let requests: Vec<_> =
            requests.into_iter().map(|k| ExecRequest { kind: Some(k) }).collect();
        soon("exec ends", async {
            // The request stream stays open until the answer has come, as a terminal's would.
            let open = tokio_stream::iter(requests).chain(tokio_stream::pending());
            let mut answers = self.containers.exec(open).await?.into_inner();
            let mut outcome = Outcome::default();
            while let Some(answer) = answers.message().await? {
                take_exec(&mut outcome, answer)?;
                if outcome.exit.is_some() {
                    break;
                }
            }
            anyhow::Ok(outcome)
        })
        .await
    }

    /// Attaches with this stdin until the container stops.
    ///
    /// # Errors
    /// The call's status, or that it takes too long.
    pub async fn attach(&mut self, start: AttachStart, stdin: &[u8]) -> Result<Outcome> {
        let mut requests = vec![attach_request::Kind::Start(start.clone())];
        if start.stdin {
            requests
                .extend(stdin.chunks(32 << 10).map(|c| attach_request::Kind::Stdin(c.to_vec())));
            requests.push(attach_request::Kind::CloseStdin(Default::default()));
        }
        let requests: Vec<_> =
            requests.into_iter().map(|k| AttachRequest { kind: Some(k) }).collect();
        soon("attach ends", async {
            let open = tokio_stream::iter(requests).chain(tokio_stream::pending());
            let mut answers = self.containers.attach(open).await?.into_inner();
            let mut outcome = Outcome::default();
            while let Some(answer) = answers.message().await? {
                take_attach(&mut outcome, answer)?;
                if outcome.exit.is_some() {
                    break;
                }
            }
            anyhow::Ok(outcome)
        })
        .await
    }

    /// Creates, attaches with history, starts, waits for the end: what `wharf run` does.
    ///
    /// # Errors
    /// The first call's status that is not OK.
    pub async fn run_to_end(&mut self, spec: ContainerSpec) -> Result<(Container, Outcome)> {
        let container = self.run(spec).await?;
        let exit = self.wait(&container.id).await?;
        let mut outcome = self.logs(&container.id).await?;
        outcome.exit = Some(exit);
        Ok((container, outcome))
    }

    /// The state of a container.
    ///
    /// # Errors
    /// The call's status.
    pub async fn state(&mut self, id: &str) -> Result<ContainerState, Status> {
        Ok(self.get(id).await?.state())
    }
}

fn take_exec(outcome: &mut Outcome, answer: ExecResponse) -> Result<()> {
    match answer.kind {
        Some(exec_response::Kind::Started(started)) => ensure!(!started.exec_id.is_empty()),
        Some(exec_response::Kind::Output(output)) => {
            outcome.take(output.stream(), &output.data);
        }
        Some(exec_response::Kind::StdinTaken(_)) => {}
        Some(exec_response::Kind::Exit(exit)) => outcome.exit = Some(exit),
        None => bail!("an empty answer to Exec"),
    }
    Ok(())
}

fn take_attach(outcome: &mut Outcome, answer: AttachResponse) -> Result<()> {
    match answer.kind {
        Some(attach_response::Kind::Attached(_)) => {}
        Some(attach_response::Kind::Output(output)) => {
            outcome.take(output.stream(), &output.data);
        }
        Some(attach_response::Kind::StdinTaken(_)) => {}
        Some(attach_response::Kind::Exit(exit)) => outcome.exit = Some(exit),
        None => bail!("an empty answer to Attach"),
    }
    Ok(())
}

/// The fields that a status blames, by BadRequest.
#[must_use]
pub fn blamed_fields(status: &Status) -> Vec<String> {
    status
        .get_details_bad_request()
        .map(|d| d.field_violations.into_iter().map(|v| v.field).collect())
        .unwrap_or_default()
}

/// The state that is in the way, by PreconditionFailure.
#[must_use]
pub fn state_in_the_way(status: &Status) -> Option<String> {
    let details = status.get_details_precondition_failure()?;
    details.violations.into_iter().next().map(|v| v.subject)
}

/// Kind and name of the resource, by ResourceInfo.
#[must_use]
pub fn resource(status: &Status) -> Option<(String, String)> {
    status.get_details_resource_info().map(|d| (d.resource_type, d.resource_name))
}

/// The constant to match on, by ErrorInfo.
#[must_use]
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|d| d.reason).unwrap_or_default()
}
