//! A client in another language: Python's grpcio, with nothing of ours but the .proto files, also while
//! the supervisor is replaced under it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use wharf_tests::{host, world::World};

/// Uses reflection's descriptors, so that no code has to be generated.
const CLIENT: &str = r#"
import sys, threading, grpc
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

# For a unix socket, gRPC's C core makes an authority out of the path, in which Rust's h2 finds a "%"
# that an authority may not have.
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "localhost")])
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

def call(service, method, **fields):
    m = pool.FindServiceByName(f"wharf.v1.{service}").FindMethodByName(method)
    request, answer = GetMessageClass(m.input_type), GetMessageClass(m.output_type)
    rpc = channel.unary_unary(f"/wharf.v1.{service}/{method}",
        request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
    return rpc(request(**fields), timeout=20)

run = call("Containers", "Run", spec={"image": "busybox:test", "name": "snake", "args": ["sh", "-c", "exit 23"]})
print(call("Containers", "Wait", container="snake").exit.exit_code)
try:
    call("Containers", "Get", container="nobody")
except grpc.RpcError as error:
    print(error.code().name)
sys.stdout.flush()
# Until it is told that it is enough: no call fails.
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
calls = 0
while not done.is_set():
    call("Containers", "Get", container="snake")
    calls += 1
print("calls" if calls else "no call")
"#;

#[tokio::test]
async fn a_client_in_python() -> Result<()> {
    let python = host::tool("python3");
    let ready = python.as_ref().is_some_and(|python| {
        let probe = "import grpc, grpc_reflection.v1alpha.proto_reflection_descriptor_database";
        Command::new(python).args(["-c", probe]).output().is_ok_and(|o| o.status.success())
    });
    let Some(python) = python.filter(|_| ready) else {
        // Debian's grpcio has no reflection.
        let why = "no Python with grpcio and grpcio-reflection (from PyPI) here";
        host::skip_optional("a_client_in_python", why);
        return Ok(());
    };
    let mut world = World::start().await?;
    let _api = world.with_busybox().await?;
    let program = world.folder().join("client.py");
    fs::write(&program, CLIENT)?;
    let mut child = Command::new(python)
        .arg(program)
        .arg(world.address())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut lines = [String::new(), String::new()];
    for line in &mut lines {
        said.read_line(line)?;
    }
    if lines.concat() == "23\nNOT_FOUND\n" {
        // It goes on calling while the supervisor is replaced under it.
        for _ in 0..3 {
            let upgraded = world.cli(["system", "upgrade"])?.output()?;
            ensure!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
            world.taken_over().await?;
        }
    }
    drop(child.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(lines.concat() + &rest == "23\nNOT_FOUND\ncalls\n", "{lines:?} {rest} {stderr}");
    world.finish().await.context("after a client in Python")
}
